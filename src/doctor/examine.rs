//! A vault looked at without changing it: its directory here, what lies in its engine in the store.

use std::path::Path;

use futures_util::StreamExt;

use super::directory;
use crate::action::{Body, Piece, Record};
use crate::clock::{Clock, SystemClock};
use crate::error::{Error, ErrorKind, Result};
use crate::store::{
    Cursor, Examination, Examiner, Find, Part, Problem, Progress, Query, Store, blocking,
};

/// Looks at the vault in `path` and changes nothing: every record, body and answer is read and checked; counts and lanes
/// are counted anew; each index is compared with the records, both ways; files that belong to nobody are named. It runs
/// off the async runtime, in memory that does not grow with the vault.
///
/// The vault must be closed: its lock is held meanwhile. sled and fjall write when they open, and so does SQLite when a crash left a
/// log: these are copied to a private directory beside the vault first, which is removed again. Bodies are not copied.
///
/// What a sealed vault holds is checked as far as it is readable: checksums, lengths, indexes and counts, not whether a
/// key opens it. [`examine_store`] does that.
///
/// # Errors
///
/// [`ErrorKind::Locked`] when somebody has it open, [`ErrorKind::Invalid`] when there is no vault, storage errors. What is
/// wrong with the vault is no error: it is a [`Finding`](super::Finding).
///
/// ```
/// # #[cfg(feature = "sled")]
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> syncvault::Result<()> {
/// # let dir = tempfile::tempdir().expect("tempdir");
/// # let path = dir.path().join("vault");
/// use std::time::Duration;
/// use syncvault::{SyncVault, doctor};
///
/// let vault = SyncVault::open("https://api.example.com", &path).await?;
/// vault.shutdown(Duration::from_secs(5)).await?;
/// let seen = doctor::examine(&path, |at| eprintln!("{} of {}", at.done, at.total)).await?;
/// assert!(seen.is_healthy(), "{seen}");
/// # Ok(()) }
/// # #[cfg(not(feature = "sled"))] fn main() {}
/// ```
pub async fn examine(
    path: impl AsRef<Path>,
    progress: impl FnMut(Progress) + Send + 'static,
) -> Result<Examination> {
    let path = path.as_ref().to_owned();
    blocking(move || {
        let mut out = Examiner::new(progress);
        match engine(&path, &mut out) {
            Err(error) if error.kind() == ErrorKind::Corrupt => {
                let text =
                    format!("it cannot be read: {error}; opening it, or `salvage`, builds it anew");
                out.find(Problem::Engine, "the engine", text);
            }
            examined => examined?,
        }
        directory::examine(&path, &mut out)?;
        Ok(out.seen)
    })
    .await
}

#[cfg_attr(
    not(any(feature = "fjall", feature = "sled", feature = "sqlite")),
    expect(unused_variables, reason = "this build has no engine to look into")
)]
fn engine(path: &Path, out: &mut Examiner) -> Result<()> {
    #[cfg(feature = "sled")]
    if path.join("sled").is_dir() {
        return crate::store::examine_sled(path, out);
    }
    #[cfg(feature = "fjall")]
    if path.join("fjall").is_dir() {
        return crate::store::examine_fjall(path, out);
    }
    #[cfg(feature = "sqlite")]
    if path.join("vault.db").is_file() {
        return crate::store::examine_sqlite(path, out);
    }
    let text = format!(
        "{} holds no vault of a store that this build has",
        path.display()
    );
    Err(Error::invalid(text))
}

/// Looks at a store of any kind, through what every store can do: each action is read with its body and its answer, lanes
/// are in order, keys lead where they should, counts are those of what is there. With a
/// [`Sealed`](crate::store::crypt::Sealed) store this shows whether everything opens.
///
/// The store is opened by this, and must be nobody else's at the time: what was in flight is queued, and what cannot be
/// read may be set aside by it. It is not closed.
///
/// # Errors
///
/// Storage errors. What is wrong with an action is a [`Finding`](super::Finding).
pub async fn examine_store(
    store: &dyn Store,
    progress: impl FnMut(Progress) + Send + 'static,
) -> Result<Examination> {
    let mut out = Examiner::new(progress);
    let opened = store.open(SystemClock.now()).await?;
    let before = opened.totals.counts;
    out.expect(before.pending + before.dead + before.retained);
    for part in [Part::Pending, Part::Dead, Part::Settled] {
        let mut last: Option<Record> = None;
        let mut after = None;
        loop {
            let (records, next) = page(store, part.clone(), after).await?;
            for record in records {
                if part == Part::Pending {
                    in_order(&mut out, last.as_ref(), &record);
                }
                action(store, &mut out, &record).await?;
                last = Some(record);
            }
            let Some(next) = next else { break };
            after = Some(next);
        }
    }
    let totals = store.totals().await?;
    let (seen, kept) = (out.seen.counts, totals.counts);
    for (name, before, kept, seen) in [
        ("pending", before.pending, kept.pending, seen.pending),
        ("dead", before.dead, kept.dead, seen.dead),
        ("retained", before.retained, kept.retained, seen.retained),
    ] {
        if seen != kept || seen != before {
            let text = format!("{before} were counted, and {seen} can be read");
            out.find(Problem::Count, name, text);
        }
    }
    out.seen.ledger = totals.ledger;
    if !opened.is_balanced || !totals.ledger.is_balanced() {
        let text = "it does not add up: something was lost without a name";
        out.find(Problem::Ledger, "the ledger", text);
    }
    if opened.is_half_restored {
        let text = "an import was not finished: run it again";
        out.find(Problem::Unfinished, "the store", text);
    }
    Ok(out.seen)
}

async fn page(
    store: &dyn Store,
    part: Part,
    after: Option<Cursor>,
) -> Result<(Vec<Record>, Option<Cursor>)> {
    const PAGE: usize = 256;
    let mut query = Query::first(part, PAGE);
    query.after = after;
    let page = store.page(query).await?;
    Ok((page.records, page.next))
}

fn in_order(out: &mut Examiner, last: Option<&Record>, record: &Record) {
    let is_behind = last.is_none_or(|last| last.lane != record.lane || last.seq < record.seq);
    if !is_behind {
        let text = "it stands in its lane before one that was added earlier";
        out.find(Problem::Lane, format!("action {}", record.id), text);
    }
}

async fn action(store: &dyn Store, out: &mut Examiner, record: &Record) -> Result<()> {
    out.step();
    let (id, place) = (record.id, format!("action {}", record.id));
    out.seen.records += 1;
    let is_kept = record.state.is_pending() || record.state.is_dead();
    let counts = &mut out.seen.counts;
    match (record.state.is_pending(), record.state.is_dead()) {
        (true, _) => counts.pending += 1,
        (_, true) => counts.dead += 1,
        _ => counts.retained += 1,
    }
    match body(store, record).await {
        Ok(Some(length)) if length == record.body_bytes => out.seen.bodies += 1,
        Ok(None) if !is_kept => {}
        Ok(None) => out.find(Problem::Body, &place, "its body is gone"),
        Ok(Some(_)) => {
            let text = "its body is not as long as its record says";
            out.find(Problem::Body, &place, text);
        }
        Err(error) => out.find(Problem::Body, &place, format!("its body: {error}")),
    }
    match store.answer(id).await {
        Ok(Some(answer)) if answer.len() as u64 == record.answer_bytes => out.seen.answers += 1,
        Ok(None) if record.answer_bytes == 0 => {}
        Ok(_) => out.find(
            Problem::Answer,
            &place,
            "its answer is not what its record says",
        ),
        Err(error) => out.find(Problem::Answer, &place, format!("its answer: {error}")),
    }
    if let Some(key) = &record.key
        && is_kept
        && store.get(Find::Key(key.clone())).await?.map(|one| one.id) != Some(id)
    {
        out.find(Problem::Index, &place, "its key does not lead to it");
    }
    Ok(())
}

/// The length of a body that was read through.
async fn body(store: &dyn Store, record: &Record) -> Result<Option<u64>> {
    let Some(body) = store.body(record.id).await? else {
        return Ok(None);
    };
    let length = body.len();
    for piece in Body::into_pieces(body) {
        let Piece::File(file) = piece else { continue };
        let (want, mut crc32c) = (file.crc32c, 0);
        let mut chunks = store.chunks(file).await?;
        while let Some(chunk) = chunks.next().await {
            crc32c = crc32c::crc32c_append(crc32c, &chunk?);
        }
        if crc32c != want {
            return Err(Error::new(ErrorKind::Corrupt, "a file fails its checksum"));
        }
    }
    Ok(Some(length))
}
