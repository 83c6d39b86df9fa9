//! What a gateway says about itself, what it refuses to start with, and that secrets stay secret.

mod check;
mod environment;
mod record;
mod secrets;
mod sense;
mod strength;
