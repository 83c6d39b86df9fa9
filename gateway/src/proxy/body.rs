//! Reads a webhook's body whole, before any upstream is contacted.
//!
//! pingora forwards from its retry buffer what was read here, and that buffer holds 64 KiB. So it is
//! switched on only for the last 64 KiB; the body filter then runs once, at the end of the stream, and puts
//! the proven bytes in place of that tail.

use bytes::{Bytes, BytesMut};
use http::header;
use pingora_proxy::Session;

use crate::{
    connection::{Connection, framing::Framing},
    denial::Reason,
    guard::webhook::MAX_CHUNKED_BYTES,
};

/// What pingora's retry buffer holds.
const RETRY_BUFFER_BYTES: u64 = 64 * 1024;

/// How much memory is asked for before a byte has come.
const FIRST_BYTES: usize = 64 * 1024;

/// Tells a client that waits for it to go on (RFC 9110, section 10.1.1): the checks of the head have passed.
pub(super) async fn welcome(session: &mut Session) {
    if session.req_header().headers.contains_key(header::EXPECT) {
        // A client that is gone is noticed when its body is read.
        let _ = session.write_continue_response().await;
    }
}

/// Reads the body, at most `limit` bytes.
pub(super) async fn read(
    session: &mut Session,
    connection: &Connection,
    limit: usize,
) -> Result<Bytes, Reason> {
    match connection.framing() {
        Framing::None => Ok(Bytes::new()),
        Framing::Length(length) if length > limit as u64 => Err(Reason::BodyTooLarge),
        Framing::Length(length) => {
            let mut body = BytesMut::with_capacity(
                usize::try_from(length)
                    .unwrap_or(FIRST_BYTES)
                    .min(FIRST_BYTES),
            );
            let mut buffering = false;
            while (body.len() as u64) < length {
                if !buffering && length - body.len() as u64 <= RETRY_BUFFER_BYTES {
                    session.as_mut().enable_retry_buffering();
                    buffering = true;
                }
                match chunk(session, connection).await? {
                    Some(bytes) => body.extend_from_slice(&bytes),
                    None => return Err(Reason::FramingAmbiguous),
                }
            }
            Ok(body.freeze())
        }
        Framing::Chunked => {
            session.as_mut().enable_retry_buffering();
            let mut body = BytesMut::new();
            while let Some(bytes) = chunk(session, connection).await? {
                body.extend_from_slice(&bytes);
                if body.len() > limit {
                    return Err(Reason::BodyTooLarge);
                }
                if body.len() > MAX_CHUNKED_BYTES {
                    return Err(Reason::LengthRequired);
                }
            }
            Ok(body.freeze())
        }
    }
}

async fn chunk(session: &mut Session, connection: &Connection) -> Result<Option<Bytes>, Reason> {
    match session.read_request_body().await {
        Ok(bytes) => Ok(bytes),
        // The gate says why; otherwise the client went away and nobody reads the answer.
        Err(_) => Err(connection
            .body_refused()
            .unwrap_or(Reason::FramingAmbiguous)),
    }
}
