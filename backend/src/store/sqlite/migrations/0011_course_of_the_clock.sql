-- How far the machine's clock can be gone by.

ALTER TABLE boot ADD COLUMN course_machine TEXT;    -- the boot of the machine whose clock this is
ALTER TABLE boot ADD COLUMN course_offset INTEGER;  -- time of day less the time since that boot
ALTER TABLE boot ADD COLUMN course_since INTEGER;   -- since when, after that boot, it is so
ALTER TABLE schedules ADD COLUMN planned_at INTEGER; -- what the clock showed when the next time was found
CREATE INDEX schedules_planned ON schedules (planned_at) WHERE paused_at IS NULL;
