//! HTTP/1.1 as bytes: what a test sends is exactly what it wrote, and what it gets is read whole,
//! with its header lines as they came.
//!
//! It never normalises, retries, follows or pools: a client library would repair the very
//! requests that a gateway has to refuse.

mod address;
mod connection;
mod request;

pub use address::{Address, Stream};
pub use connection::{Answer, Connection, Exchange};
pub use request::Request;

/// Opens a connection, sends `bytes`, reads one answer and then sees whether the other side
/// closes. `method` decides whether the answer may have a body.
pub async fn exchange(address: &Address, bytes: &[u8]) -> Exchange {
    let mut connection = Connection::open(address).await;
    connection.send(bytes).await;
    connection.exchange().await
}
