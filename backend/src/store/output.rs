//! The output of runs, numbered over all of their attempts.

use async_trait::async_trait;
use jiff::Timestamp;

use super::StoreError;
use crate::executor::OutputRecord;

/// One piece of a run's output.
#[derive(Debug, Clone)]
pub struct OutputRow {
    /// Its number within the run.
    pub seq: i64,
    /// `stdout`, `stderr` or `system`.
    pub stream: String,
    /// When it was written.
    pub time: Timestamp,
    /// What was written.
    pub bytes: Vec<u8>,
}

/// What runs write.
#[async_trait]
pub trait OutputStore: Send + Sync {
    /// Takes in output of an attempt. What is there already is left alone. `false`: the attempt
    /// is not the run's newest, or has ended.
    async fn take_output(
        &self,
        run_id: String,
        epoch: i64,
        records: Vec<OutputRecord>,
    ) -> Result<bool, StoreError>;

    /// Bytes that are kept of what a run's commands have written, in all of its attempts.
    async fn output_kept(&self, run_id: String) -> Result<u64, StoreError>;

    /// Output of a run after number `after`: at most `limit` pieces, and no more pieces once there
    /// are 256 KiB.
    async fn output(
        &self,
        run_id: String,
        after: i64,
        limit: i64,
    ) -> Result<Vec<OutputRow>, StoreError>;
}
