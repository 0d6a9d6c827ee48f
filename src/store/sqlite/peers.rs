//! Which runs are alive, and whose turn it is to lease: locks of the operating system. They go with their process,
//! however it ends, and need no clock.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::path::{Path, PathBuf};

use crate::error::Result;
use crate::store::dir::{VaultDir, failed, private_file};
use crate::store::kv::Peers;

/// Locked by the process that leases.
const TURN: &str = "drain.lock";
/// One file for each run, locked as long as that run is alive.
const RUNS: &str = "runs";

/// Our locks.
#[derive(Debug)]
pub(super) struct Locks {
    runs: PathBuf,
    run: Option<Run>,
    turn: File,
    turn_path: PathBuf,
    has_turn: bool,
}

#[derive(Debug)]
struct Run {
    epoch: u64,
    path: PathBuf,
    /// Holds the lock.
    _lock: File,
}

impl Locks {
    pub(super) fn new(dir: &VaultDir) -> Result<Self> {
        let turn_path = dir.path().join(TURN);
        Ok(Self {
            runs: dir.subdir(RUNS)?,
            run: None,
            turn: open(&turn_path)?,
            turn_path,
            has_turn: false,
        })
    }

    fn path(&self, epoch: u64) -> PathBuf {
        self.runs.join(epoch.to_string())
    }

    pub(super) fn close(self) {
        if let Some(run) = &self.run {
            remove(&run.path);
        }
    }

    /// Removes what dead runs left. Nobody starts meanwhile: runs start one at a time.
    fn sweep(&self) -> Result<()> {
        let entries = fs::read_dir(&self.runs).map_err(|e| failed("list", &self.runs, e))?;
        for entry in entries {
            let path = entry.map_err(|e| failed("list", &self.runs, e))?.path();
            if !is_locked(&path)? {
                remove(&path);
            }
        }
        Ok(())
    }
}

impl Peers for Locks {
    fn start(&mut self, epoch: u64) -> Result<()> {
        if let Some(run) = self.run.take() {
            remove(&run.path);
        }
        self.sweep()?;
        let path = self.path(epoch);
        let lock = open(&path)?;
        lock.lock().map_err(|e| failed("lock", &path, e))?;
        self.run = Some(Run {
            epoch,
            path,
            _lock: lock,
        });
        Ok(())
    }

    fn is_live(&self, epoch: u64) -> Result<bool> {
        match &self.run {
            Some(run) if run.epoch == epoch => Ok(true),
            _ => is_locked(&self.path(epoch)),
        }
    }

    fn take_turn(&mut self) -> Result<bool> {
        if !self.has_turn {
            self.has_turn = match self.turn.try_lock() {
                Ok(()) => true,
                Err(TryLockError::WouldBlock) => false,
                Err(TryLockError::Error(e)) => return Err(failed("lock", &self.turn_path, e)),
            };
        }
        Ok(self.has_turn)
    }

    fn give_turn(&mut self) {
        if !self.has_turn {
            return;
        }
        match self.turn.unlock() {
            Ok(()) => self.has_turn = false,
            Err(error) => tracing::warn!(%error, "the turn to lease cannot be given back"),
        }
    }
}

fn open(path: &Path) -> Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false);
    private_file(&mut options);
    options.open(path).map_err(|e| failed("open", path, e))
}

fn is_locked(path: &Path) -> Result<bool> {
    let file = match File::open(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(false),
        opened => opened.map_err(|e| failed("open", path, e))?,
    };
    match file.try_lock_shared() {
        Ok(()) => Ok(false),
        Err(TryLockError::WouldBlock) => Ok(true),
        Err(TryLockError::Error(e)) => Err(failed("look at the lock of", path, e)),
    }
}

fn remove(path: &Path) {
    match fs::remove_file(path) {
        Ok(()) => {}
        Err(e) if e.kind() == io::ErrorKind::NotFound => {}
        Err(error) => tracing::debug!(?path, %error, "the file of a run is left over"),
    }
}
