-- Old deliveries are removed by their age, whatever their place.
CREATE INDEX deliveries_by_age ON deliveries (received_at);
