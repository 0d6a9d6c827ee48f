//! The option for bodies that come from files.

use super::SyncVaultBuilder;
use super::check::within;
use crate::error::Result;

impl SyncVaultBuilder {
    /// How many bytes the files of one request may have, all together. They count against
    /// [`bytes_max`](Self::bytes_max). Default: `bytes_max`.
    pub fn file_bytes_max(mut self, max: u64) -> Self {
        self.file_bytes_max = Some(max);
        self
    }

    pub(super) fn checked_file_bytes_max(&self) -> Result<u64> {
        let whole = self.limits.bytes_max;
        let max = self.file_bytes_max.unwrap_or(whole);
        within("file_bytes_max", max, 1, whole)?;
        Ok(max)
    }
}
