//! Resident memory of this process, where the system tells it.

/// Now, in bytes.
pub(crate) fn resident() -> Option<u64> {
    read("VmRSS:")
}

/// The most so far, in bytes.
pub(crate) fn peak() -> Option<u64> {
    read("VmHWM:")
}

fn read(name: &str) -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix(name))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}
