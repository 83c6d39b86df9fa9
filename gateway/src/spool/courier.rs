//! Carries one proven delivery to an upstream and tells what came of it: done, refused for good, or to be tried again.
//!
//! It asks once, on a connection of its own, and waits no longer than it is told to. Only a whole answer counts as one:
//! what is cut off may or may not have been acted on, and the key settles that when it is sent again.

use std::{io, time::Duration};

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderName, Request, StatusCode, header, request::Parts};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpStream, UnixStream},
    time::{Instant, timeout, timeout_at},
};

use super::entry::Why;
use crate::policy::{Upstream, UpstreamAddress};

/// Most bytes of an answer's body that are read. Answers to deliveries are a few hundred.
const ANSWER_BYTES: usize = 256 * 1024;

/// The longest `Retry-After` that is believed.
const LONGEST_PATIENCE: Duration = Duration::from_secs(300);

/// Headers of the connection, not of the answer (RFC 9110, section 7.6.1), and the length, which is written anew.
const HOP_BY_HOP: [HeaderName; 8] = [
    header::CONNECTION,
    header::CONTENT_LENGTH,
    header::PROXY_AUTHENTICATE,
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
    HeaderName::from_static("keep-alive"),
];

/// A connection to an upstream, whatever carries it.
trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// What came of one try.
#[derive(Debug)]
pub enum Outcome {
    /// The upstream has it: 2xx.
    Done(Answer),
    /// The upstream does not want it, and asking again changes nothing: 3xx, and 4xx save those of [`Why::Throttled`].
    Refused(Answer),
    /// To be tried again.
    Later(Setback),
}

/// An upstream's whole answer.
#[derive(Debug)]
pub struct Answer {
    /// Its status.
    pub status: StatusCode,
    /// Its headers, without those of the connection.
    pub headers: HeaderMap,
    /// Its body; empty where it is larger than any answer to a delivery.
    pub body: Bytes,
}

/// Why there was no answer that counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Setback {
    /// Why.
    pub why: Why,
    /// The status, where there was one; else 0.
    pub status: u16,
    /// How long the upstream asks to be left alone.
    pub retry_after: Option<Duration>,
}

impl From<Why> for Setback {
    fn from(why: Why) -> Self {
        Self {
            why,
            status: 0,
            retry_after: None,
        }
    }
}

/// Sends a request, stamped as the upstream gets it, with its body, and waits for the whole answer until this moment.
pub async fn send(upstream: &Upstream, request: Parts, body: Bytes, until: Instant) -> Outcome {
    match timeout_at(until, exchange(upstream, request, body)).await {
        Ok(Ok(answer)) => judge(answer),
        Ok(Err(why)) => Outcome::Later(why.into()),
        Err(_) => Outcome::Later(Why::Timeout.into()),
    }
}

async fn exchange(upstream: &Upstream, request: Parts, body: Bytes) -> Result<Answer, Why> {
    let stream = match timeout(upstream.connect_timeout, open(upstream)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(e)) => {
            tracing::debug!(event = "no_connection", upstream = upstream.id, error = %e, "an upstream cannot be reached, or does not prove who it is");
            return Err(Why::Unreachable);
        }
        Err(_) => return Err(Why::Timeout),
    };
    let broke_off = |_: hyper::Error| Why::BrokeOff;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream))
        .await
        .map_err(broke_off)?;
    let request = Request::from_parts(request, Full::new(body));
    let talk = async {
        let response = sender.send_request(request).await.map_err(broke_off)?;
        let (parts, mut incoming) = response.into_parts();
        let mut body = BytesMut::new();
        while let Some(frame) = incoming.frame().await {
            if let Ok(data) = frame.map_err(broke_off)?.into_data() {
                body.extend_from_slice(&data);
            }
            if body.len() > ANSWER_BYTES {
                body.clear();
                break;
            }
        }
        Ok(Answer {
            status: parts.status,
            headers: end_to_end(parts.headers),
            body: body.freeze(),
        })
    };
    let mut talk = std::pin::pin!(talk);
    let mut connection = std::pin::pin!(connection);
    tokio::select! {
        answer = &mut talk => answer,
        // The connection is over; what it brought is still to be taken.
        _ = &mut connection => talk.await,
    }
}

/// A connection to an upstream. The one place that opens any for deliveries.
async fn open(upstream: &Upstream) -> io::Result<Box<dyn Stream>> {
    Ok(match &upstream.address {
        UpstreamAddress::Unix(path) => Box::new(UnixStream::connect(path).await?),
        UpstreamAddress::Tcp(address) => {
            let stream = TcpStream::connect(address).await?;
            stream.set_nodelay(true)?;
            match &upstream.trust {
                Some(trust) => Box::new(trust.connect(stream).await?),
                None => Box::new(stream),
            }
        }
    })
}

fn end_to_end(mut headers: HeaderMap) -> HeaderMap {
    let nominated: Vec<HeaderName> = headers
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| name.trim().parse().ok())
        .collect();
    for name in HOP_BY_HOP.into_iter().chain(nominated) {
        headers.remove(name);
    }
    headers
}

fn judge(answer: Answer) -> Outcome {
    let status = answer.status;
    if status.is_success() {
        return Outcome::Done(answer);
    }
    let why = match status.as_u16() {
        408 | 425 | 429 => Why::Throttled,
        300..=499 => return Outcome::Refused(answer),
        _ => Why::Failed,
    };
    Outcome::Later(Setback {
        why,
        status: status.as_u16(),
        retry_after: retry_after(&answer.headers),
    })
}

/// `Retry-After` in seconds, within bounds. Its form as a date is not read: backoff does as well.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get(header::RETRY_AFTER)?.to_str().ok()?;
    let seconds: u64 = text.trim().parse().ok()?;
    Some(Duration::from_secs(seconds).min(LONGEST_PATIENCE))
}

#[cfg(test)]
#[expect(clippy::unwrap_used, clippy::panic, reason = "a test may fail")]
mod tests {
    use super::*;

    fn answer(status: u16, headers: &[(&'static str, &'static str)]) -> Answer {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(*name, value.parse().unwrap());
        }
        Answer {
            status: StatusCode::from_u16(status).unwrap(),
            headers: map,
            body: Bytes::new(),
        }
    }

    #[test]
    fn what_is_final_and_what_is_tried_again() {
        for status in [200, 202, 204] {
            assert!(matches!(judge(answer(status, &[])), Outcome::Done(_)));
        }
        for status in [301, 400, 401, 404, 409, 422] {
            assert!(matches!(judge(answer(status, &[])), Outcome::Refused(_)));
        }
        for (status, why) in [
            (408, Why::Throttled),
            (429, Why::Throttled),
            (500, Why::Failed),
            (503, Why::Failed),
        ] {
            match judge(answer(status, &[("retry-after", "7")])) {
                Outcome::Later(setback) => {
                    assert_eq!((setback.why, setback.status), (why, status));
                    assert_eq!(setback.retry_after, Some(Duration::from_secs(7)));
                }
                Outcome::Done(_) | Outcome::Refused(_) => panic!("{status} is not final"),
            }
        }
    }

    #[test]
    fn patience_is_bounded() {
        let after = |value| retry_after(&answer(503, &[("retry-after", value)]).headers);
        assert_eq!(after("99999999"), Some(LONGEST_PATIENCE));
        assert_eq!(after("-1"), None);
        assert_eq!(after("Wed, 21 Oct 2015 07:28:00 GMT"), None);
    }

    #[test]
    fn headers_of_the_connection_stay_behind() {
        let headers = end_to_end(
            answer(
                200,
                &[
                    ("connection", "close, x-hop"),
                    ("x-hop", "1"),
                    ("transfer-encoding", "chunked"),
                    ("content-type", "text/plain"),
                ],
            )
            .headers,
        );
        assert_eq!(headers.len(), 1);
        assert!(headers.contains_key("content-type"));
    }
}
