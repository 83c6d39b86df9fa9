-- Queues, bounds of waiting, runs that wait for runs, replays.

ALTER TABLE runs ADD COLUMN queue TEXT NOT NULL DEFAULT 'default';
ALTER TABLE runs ADD COLUMN since INTEGER NOT NULL DEFAULT 0;  -- when it came into its state
ALTER TABLE runs ADD COLUMN give_up_at INTEGER;                -- a run that still waits then has waited too long
ALTER TABLE runs ADD COLUMN holds INTEGER NOT NULL DEFAULT 0;  -- how many runs it waits for
ALTER TABLE runs ADD COLUMN replay_of TEXT;                    -- the run it repeats
ALTER TABLE runs ADD COLUMN schedule_id TEXT;                  -- the schedule it belongs to
UPDATE runs SET since = coalesce(ended_at, canceling_at, iif(state = 'running', started_at, NULL), queued_at, created_at);

DROP INDEX runs_queued;
CREATE INDEX runs_queued ON runs (queue, turn_key, priority DESC, seq) WHERE state = 'queued';
DROP INDEX runs_scheduled;
CREATE INDEX runs_scheduled ON runs (not_before) WHERE state = 'scheduled' AND holds = 0;
CREATE INDEX runs_scheduled_since ON runs (since) WHERE state = 'scheduled' AND holds = 0;
DROP INDEX runs_active;
CREATE INDEX runs_active ON runs (queue, turn_key) WHERE state IN ('running', 'canceling');
CREATE INDEX runs_waiting ON runs (queue) WHERE state IN ('queued', 'scheduled');
CREATE INDEX runs_given_up ON runs (give_up_at) WHERE state IN ('queued', 'scheduled');
CREATE INDEX runs_replays ON runs (replay_of) WHERE replay_of IS NOT NULL;
CREATE INDEX runs_by_schedule ON runs (schedule_id, seq) WHERE schedule_id IS NOT NULL;

-- What a run waits for, also after it was met.
CREATE TABLE run_needs (
    run_id TEXT NOT NULL,
    needs  TEXT NOT NULL,            -- another run
    need   TEXT NOT NULL,            -- success | end: of it
    met    INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (run_id, needs)
) STRICT, WITHOUT ROWID;
CREATE INDEX run_needs_open ON run_needs (needs) WHERE met = 0;

-- What was done to a queue; one without a row was never touched.
CREATE TABLE queues (
    name      TEXT PRIMARY KEY,
    paused_at INTEGER,
    paused_by TEXT
) STRICT, WITHOUT ROWID;

-- Turns are taken between the keys of all queues.
ALTER TABLE turns RENAME TO old_turns;
CREATE TABLE turns (
    queue    TEXT NOT NULL,
    turn_key TEXT NOT NULL,
    served   INTEGER NOT NULL,       -- when this lane was last given a slot, as a counter
    PRIMARY KEY (queue, turn_key)
) STRICT, WITHOUT ROWID;
INSERT INTO turns (queue, turn_key, served) SELECT 'default', turn_key, served FROM old_turns;
DROP TABLE old_turns;
CREATE INDEX turns_by_service ON turns (served);

-- The bound that an attempt overstepped and is being ended for.
ALTER TABLE attempts ADD COLUMN ended_for TEXT;
