-- How many runs wait in each queue, so that nobody has to count them.

CREATE TABLE waiting (
    queue TEXT PRIMARY KEY,
    runs  INTEGER NOT NULL           -- kept by the triggers alone
) STRICT, WITHOUT ROWID;
INSERT INTO waiting (queue, runs)
    SELECT queue, count(*) FROM runs WHERE state IN ('queued', 'scheduled') GROUP BY queue;

CREATE TRIGGER waiting_begun AFTER INSERT ON runs WHEN new.state IN ('queued', 'scheduled')
BEGIN
    INSERT INTO waiting (queue, runs) VALUES (new.queue, 1)
        ON CONFLICT (queue) DO UPDATE SET runs = runs + 1;
END;
CREATE TRIGGER waiting_again AFTER UPDATE OF state ON runs
WHEN new.state IN ('queued', 'scheduled') AND old.state NOT IN ('queued', 'scheduled')
BEGIN
    INSERT INTO waiting (queue, runs) VALUES (new.queue, 1)
        ON CONFLICT (queue) DO UPDATE SET runs = runs + 1;
END;
CREATE TRIGGER waiting_over AFTER UPDATE OF state ON runs
WHEN old.state IN ('queued', 'scheduled') AND new.state NOT IN ('queued', 'scheduled')
BEGIN
    UPDATE waiting SET runs = runs - 1 WHERE queue = old.queue;
END;
CREATE TRIGGER waiting_gone AFTER DELETE ON runs WHEN old.state IN ('queued', 'scheduled')
BEGIN
    UPDATE waiting SET runs = runs - 1 WHERE queue = old.queue;
END;
