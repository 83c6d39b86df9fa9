-- How much of an attempt's output was dropped beyond the cap.

ALTER TABLE attempts ADD COLUMN dropped_bytes INTEGER;
