-- Removing what is done with, a part at a time.

ALTER TABLE runs ADD COLUMN logs_removed_at INTEGER;  -- 0: there were none
CREATE INDEX runs_ended ON runs (ended_at) WHERE ended_at IS NOT NULL;
CREATE INDEX runs_with_logs ON runs (ended_at) WHERE ended_at IS NOT NULL AND logs_removed_at IS NULL;
-- What has not ended of a card and of a schedule: the others may be many.
CREATE INDEX runs_open_by_card ON runs (card_id, seq) WHERE ended_at IS NULL AND card_id IS NOT NULL;
CREATE INDEX runs_open_by_schedule ON runs (schedule_id, seq) WHERE ended_at IS NULL AND schedule_id IS NOT NULL;
CREATE INDEX cards_put_away ON cards (archived_at) WHERE status = 'archived';
CREATE INDEX sandboxes_deleted ON sandboxes (updated_at) WHERE state = 'deleted';
