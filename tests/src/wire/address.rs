//! Where a program listens.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};

use crate::tls::Client;

/// A TCP address or the path of a unix socket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Address {
    /// A TCP address.
    Tcp(SocketAddr),
    /// A TCP address, and how TLS is spoken to it.
    Tls(SocketAddr, Client),
    /// A unix socket.
    Unix(PathBuf),
}

/// Either kind of stream.
pub trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

impl Address {
    /// Reads `http://127.0.0.1:80`, `127.0.0.1:80` or `unix:/path`.
    pub fn parse(text: &str) -> Self {
        if let Some(path) = text.strip_prefix("unix:") {
            return Self::Unix(PathBuf::from(path));
        }
        let socket = text
            .strip_prefix("http://")
            .unwrap_or(text)
            .trim_end_matches('/');
        Self::Tcp(
            socket
                .parse()
                .unwrap_or_else(|_| panic!("not an address: {text:?}")),
        )
    }

    /// The TCP port.
    pub fn port(&self) -> u16 {
        match self {
            Self::Tcp(socket) | Self::Tls(socket, _) => socket.port(),
            Self::Unix(path) => panic!("{} has no port", path.display()),
        }
    }

    /// What a client of this address writes into `Host`.
    pub fn host(&self) -> String {
        match self {
            Self::Tcp(socket) | Self::Tls(socket, _) => socket.to_string(),
            Self::Unix(_) => "localhost".to_owned(),
        }
    }

    /// The base of a URL at this address.
    pub fn url(&self) -> String {
        let scheme = match self {
            Self::Tls(..) => "https",
            Self::Tcp(_) | Self::Unix(_) => "http",
        };
        format!("{scheme}://{}", self.host())
    }

    /// Connects.
    pub async fn connect(&self) -> std::io::Result<Box<dyn Stream>> {
        Ok(match self {
            Self::Tcp(socket) => {
                let stream = TcpStream::connect(socket).await?;
                stream.set_nodelay(true)?;
                Box::new(stream)
            }
            Self::Tls(socket, client) => {
                let stream = TcpStream::connect(socket).await?;
                stream.set_nodelay(true)?;
                Box::new(client.connect(stream).await?)
            }
            Self::Unix(path) => Box::new(UnixStream::connect(path).await?),
        })
    }

    /// Whether something accepts connections there.
    pub async fn accepts(&self) -> bool {
        self.connect().await.is_ok()
    }
}

/// As the programs' configurations write it: `127.0.0.1:80` or `unix:/path`.
impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(socket) | Self::Tls(socket, _) => socket.fmt(f),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}
