//! Reads a webhook's body whole, before any upstream is contacted.
//!
//! pingora forwards from its retry buffer what was read here, and that buffer holds 64 KiB. So it is
//! switched on only for the last 64 KiB; the body filter then runs once, at the end of the stream, and puts
//! the proven bytes in place of that tail.

use bytes::{Bytes, BytesMut};
use http::{Version, header};
use pingora_proxy::Session;

use crate::{
    bodies::{self, Sender},
    connection::{Connection, framing::Framing},
    denial::{Denial, Reason},
    guard::webhook::chunked_within,
    pipeline::{self, Unproven},
};

/// What pingora's retry buffer holds.
const RETRY_BUFFER_BYTES: u64 = 64 * 1024;

/// How much memory is asked for before a byte has come.
const FIRST_BYTES: usize = 64 * 1024;

/// Tells a client that waits for it to go on (RFC 9110, section 10.1.1): the checks of the head have passed.
pub(super) async fn welcome(session: &mut Session) {
    let request = session.req_header();
    if request.version == Version::HTTP_11 && request.headers.contains_key(header::EXPECT) {
        // A client that is gone is noticed when its body is read.
        let _ = session.write_continue_response().await;
    }
}

/// Reads the body whole. One of a failing address has to be there at once, or to take a slot. That it did not come whole is noted in
/// its pass.
pub(super) async fn read(
    session: &mut Session,
    connection: &Connection,
    unproven: &Unproven,
) -> Result<Bytes, Denial> {
    let read = read_in_time(session, connection, unproven).await;
    if let Err(denial) = &read
        && matches!(
            denial.reason,
            Reason::BodyTimeout | Reason::FramingAmbiguous
        )
    {
        unproven.pass().note_withheld();
    }
    read
}

async fn read_in_time(
    session: &mut Session,
    connection: &Connection,
    unproven: &Unproven,
) -> Result<Bytes, Denial> {
    let pass = unproven.pass();
    let read = read_all(session, connection, unproven);
    if pass.sender() != Sender::Failing {
        return read.await;
    }
    let mut read = std::pin::pin!(read);
    if let Ok(body) = tokio::time::timeout(bodies::PROMPT, &mut read).await {
        return body;
    }
    pass.take_slot().map_err(pipeline::no_room)?;
    tokio::time::timeout(bodies::SLOT_TIME, read)
        .await
        .unwrap_or_else(|_| Err(Reason::BodyTimeout.into()))
}

async fn read_all(
    session: &mut Session,
    connection: &Connection,
    unproven: &Unproven,
) -> Result<Bytes, Denial> {
    let (pass, limit) = (unproven.pass(), unproven.body_limit());
    match connection.framing() {
        Framing::None => Ok(Bytes::new()),
        Framing::Length(length) if length > limit as u64 => Err(Reason::BodyTooLarge.into()),
        Framing::Length(length) => {
            let expected = usize::try_from(length).unwrap_or(FIRST_BYTES);
            let mut body = BytesMut::with_capacity(expected.min(FIRST_BYTES));
            let mut buffering = false;
            while (body.len() as u64) < length {
                if !buffering && length - body.len() as u64 <= RETRY_BUFFER_BYTES {
                    session.as_mut().enable_retry_buffering();
                    buffering = true;
                }
                let bytes = chunk(session, connection)
                    .await?
                    .ok_or(Reason::FramingAmbiguous)?;
                pass.grow(bytes.len()).map_err(pipeline::no_room)?;
                body.extend_from_slice(&bytes);
            }
            Ok(body.freeze())
        }
        Framing::Chunked => {
            session.as_mut().enable_retry_buffering();
            let mut body = BytesMut::new();
            while let Some(bytes) = chunk(session, connection).await? {
                pass.grow(bytes.len()).map_err(pipeline::no_room)?;
                body.extend_from_slice(&bytes);
                chunked_within(body.len(), limit)?;
            }
            Ok(body.freeze())
        }
    }
}

async fn chunk(session: &mut Session, connection: &Connection) -> Result<Option<Bytes>, Reason> {
    // The gate says why; otherwise the client went away and nobody reads the answer.
    let why = |_| {
        connection
            .body_refused()
            .unwrap_or(Reason::FramingAmbiguous)
    };
    session.read_request_body().await.map_err(why)
}
