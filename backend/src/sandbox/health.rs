//! Whether a service is well, asked over its port on 127.0.0.1 and nowhere else.

use std::{net::Ipv4Addr, time::Duration};

use bytes::Bytes;
use http::{Request, StatusCode, header};
use http_body_util::Empty;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::{net::TcpStream, time::timeout};

use super::{
    activity::Probes,
    spec::{Health, Service},
};

/// How long a service may take to answer.
const PATIENCE: Duration = Duration::from_secs(2);

/// How long a connection has to stay open to count where something else takes it for the service: a
/// relay that finds nobody behind it closes at once.
const OPEN: Duration = Duration::from_millis(100);

/// Whether the service answers as it should. One that has no port is well while it lives. `relayed`:
/// something stands before it that takes connections also while the service does not.
pub(super) async fn is_well(service: &Service, relayed: bool, probes: &Probes) -> bool {
    let Some(port) = service.port else {
        return true;
    };
    let answer = async {
        match &service.health {
            Health::Tcp(false) => true,
            Health::Tcp(true) => match connect(port, probes).await {
                Some(stream) => !relayed || stays_open(&stream).await,
                None => false,
            },
            Health::Path(path) => get(port, path, probes)
                .await
                .is_some_and(|status| status.is_success() || status.is_redirection()),
        }
    };
    timeout(PATIENCE, answer).await.unwrap_or(false)
}

async fn connect(port: u16, probes: &Probes) -> Option<TcpStream> {
    let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await.ok()?;
    probes.note(stream.local_addr().ok()?.port());
    Some(stream)
}

/// Whether the other side does not close at once. What it says first shows as much.
async fn stays_open(stream: &TcpStream) -> bool {
    match timeout(OPEN, stream.peek(&mut [0])).await {
        Ok(Ok(said)) => said > 0,
        Ok(Err(_)) => false,
        Err(_) => true,
    }
}

/// The status of a `GET`; redirects are not followed and the body is not read.
async fn get(port: u16, path: &str, probes: &Probes) -> Option<StatusCode> {
    let stream = TokioIo::new(connect(port, probes).await?);
    let (mut sender, connection) = http1::handshake(stream).await.ok()?;
    let request = Request::get(path)
        .header(header::HOST, format!("127.0.0.1:{port}"))
        .header(header::CONNECTION, "close")
        .body(Empty::<Bytes>::new())
        .ok()?;
    let exchange = async move {
        sender
            .send_request(request)
            .await
            .ok()
            .map(|answer| answer.status())
    };
    // The connection is dropped with this function: nothing of it goes on in the background.
    tokio::pin!(connection, exchange);
    tokio::select! {
        status = &mut exchange => status,
        _ = &mut connection => exchange.await,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may fail")]
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::TcpListener,
    };

    use super::*;

    fn service(port: u16, health: Health) -> Service {
        Service {
            name: "a".into(),
            port: Some(port),
            health,
            ..Service::default()
        }
    }

    #[tokio::test]
    async fn a_status_decides_and_silence_is_not_well() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        tokio::spawn(async move {
            for answer in [
                "204 No Content",
                "302 Found\r\nLocation: http://192.0.2.1/",
                "503 Busy",
                "nonsense",
            ] {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut head = [0; 1024];
                let read = stream.read(&mut head).await.unwrap();
                assert!(head[..read].starts_with(b"GET /health?x=1 HTTP/1.1\r\n"));
                stream
                    .write_all(format!("HTTP/1.1 {answer}\r\n\r\n").as_bytes())
                    .await
                    .unwrap();
            }
        });
        let probes = Probes::default();
        let service = service(port, Health::Path("/health?x=1".into()));
        assert!(is_well(&service, false, &probes).await);
        assert!(is_well(&service, false, &probes).await);
        assert!(!is_well(&service, false, &probes).await);
        assert!(!is_well(&service, false, &probes).await);
        assert!(
            !is_well(&service, false, &probes).await,
            "nobody listens any more"
        );
    }

    #[tokio::test]
    async fn behind_a_relay_an_open_door_is_not_enough() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        tokio::spawn(async move {
            let mut kept = Vec::new();
            for close in [true, true, false] {
                let (stream, _) = listener.accept().await.unwrap();
                if !close {
                    kept.push(stream);
                }
            }
            std::future::pending::<()>().await;
        });
        let probes = Probes::default();
        let service = service(port, Health::Tcp(true));
        assert!(is_well(&service, false, &probes).await);
        assert!(!is_well(&service, true, &probes).await, "closed at once");
        assert!(is_well(&service, true, &probes).await);
    }
}
