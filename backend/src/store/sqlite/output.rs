//! The engine's side of [`crate::store::output`].

use async_trait::async_trait;

use super::{Database, StoreError, attempts::open_base, time};
use crate::executor::OutputRecord;
pub(super) use crate::store::output::*;

#[async_trait]
impl OutputStore for Database {
    async fn take_output(
        &self,
        run_id: String,
        epoch: i64,
        records: Vec<OutputRecord>,
    ) -> Result<bool, StoreError> {
        self.write(move |tx| {
            let Some(base) = open_base(tx, &run_id, epoch)? else {
                return Ok(false);
            };
            let mut insert = tx.prepare_cached(
                "INSERT INTO output (run_id, seq, epoch, stream, time, bytes) \
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6) ON CONFLICT DO NOTHING",
            )?;
            for record in records {
                let seq = base.saturating_add(i64::try_from(record.seq).unwrap_or(i64::MAX));
                insert.execute((
                    &run_id,
                    seq,
                    epoch,
                    record.stream.name(),
                    record.time.as_microsecond(),
                    &record.bytes[..],
                ))?;
            }
            Ok(true)
        })
        .await
    }

    async fn output_kept(&self, run_id: String) -> Result<u64, StoreError> {
        self.read(move |conn| {
            let kept: i64 = conn
                .prepare_cached(
                    "SELECT coalesce(sum(length(bytes)), 0) FROM output \
                     WHERE run_id = ?1 AND stream <> 'system'",
                )?
                .query_row([&run_id], |row| row.get(0))?;
            Ok(u64::try_from(kept).unwrap_or(0))
        })
        .await
    }

    async fn output(
        &self,
        run_id: String,
        after: i64,
        limit: i64,
    ) -> Result<Vec<OutputRow>, StoreError> {
        self.read(move |conn| {
            let mut statement = conn.prepare_cached(
                "SELECT seq, stream, time, bytes FROM output \
                 WHERE run_id = ?1 AND seq > ?2 ORDER BY seq LIMIT ?3",
            )?;
            let mut rows = statement.query((&run_id, after, limit))?;
            let (mut output, mut size) = (Vec::new(), 0);
            while size < PAGE_BYTES
                && let Some(row) = rows.next()?
            {
                let bytes: Vec<u8> = row.get(3)?;
                size += bytes.len();
                output.push(OutputRow {
                    seq: row.get(0)?,
                    stream: row.get(1)?,
                    time: time(row.get(2)?)?,
                    bytes,
                });
            }
            Ok(output)
        })
        .await
    }
}

/// Bytes of output read at a time: whatever the limit, a page ends with the piece that reaches it.
const PAGE_BYTES: usize = 256 * 1024;
