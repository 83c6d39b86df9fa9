-- The lanes in which runs wait, in the order of their turns, so that a claim looks at the next one
-- instead of at all. It takes the place of `turns`.

CREATE TABLE lanes (
    queue    TEXT NOT NULL,
    turn_key TEXT NOT NULL,
    priority INTEGER,                -- of its first run that is queued, kept by the triggers alone; NULL: none is
    served   INTEGER NOT NULL DEFAULT 0, -- when it was last given a slot, as a counter; 0: never, or long ago
    PRIMARY KEY (queue, turn_key)
) STRICT, WITHOUT ROWID;
INSERT INTO lanes (queue, turn_key, priority)
    SELECT queue, turn_key, max(priority) FROM runs WHERE state = 'queued' GROUP BY queue, turn_key;
INSERT INTO lanes (queue, turn_key, served) SELECT queue, turn_key, served FROM turns WHERE true
    ON CONFLICT (queue, turn_key) DO UPDATE SET served = excluded.served;
DROP TABLE turns;
CREATE INDEX lanes_in_turn ON lanes (queue, priority DESC, served, turn_key) WHERE priority IS NOT NULL;
CREATE INDEX lanes_by_service ON lanes (served);

CREATE TRIGGER lane_joined AFTER INSERT ON runs WHEN new.state = 'queued'
BEGIN
    INSERT INTO lanes (queue, turn_key, priority) VALUES (new.queue, new.turn_key, new.priority)
        ON CONFLICT (queue, turn_key) DO UPDATE
        SET priority = max(coalesce(priority, excluded.priority), excluded.priority);
END;
CREATE TRIGGER lane_joined_again AFTER UPDATE OF state ON runs
WHEN new.state = 'queued' AND old.state <> 'queued'
BEGIN
    INSERT INTO lanes (queue, turn_key, priority) VALUES (new.queue, new.turn_key, new.priority)
        ON CONFLICT (queue, turn_key) DO UPDATE
        SET priority = max(coalesce(priority, excluded.priority), excluded.priority);
END;
CREATE TRIGGER lane_left AFTER UPDATE OF state ON runs
WHEN old.state = 'queued' AND new.state <> 'queued'
BEGIN
    UPDATE lanes SET priority = (SELECT priority FROM runs WHERE state = 'queued'
        AND queue = old.queue AND turn_key = old.turn_key ORDER BY priority DESC, seq LIMIT 1)
        WHERE queue = old.queue AND turn_key = old.turn_key;
    DELETE FROM lanes WHERE queue = old.queue AND turn_key = old.turn_key
        AND priority IS NULL AND served = 0;
END;
CREATE TRIGGER lane_left_for_good AFTER DELETE ON runs WHEN old.state = 'queued'
BEGIN
    UPDATE lanes SET priority = (SELECT priority FROM runs WHERE state = 'queued'
        AND queue = old.queue AND turn_key = old.turn_key ORDER BY priority DESC, seq LIMIT 1)
        WHERE queue = old.queue AND turn_key = old.turn_key;
    DELETE FROM lanes WHERE queue = old.queue AND turn_key = old.turn_key
        AND priority IS NULL AND served = 0;
END;
