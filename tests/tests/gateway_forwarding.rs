//! What reaches the inside, byte for byte, and what never does.

mod bodies;
mod connections;
mod corpus;
mod headers;
mod in_front;
mod nothing_unproven;
mod vectors;
mod websocket;
