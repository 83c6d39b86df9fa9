//! The service that the sandboxes of these tests consist of: this test program once more, as an
//! HTTP server.

use std::{
    io::{Read as _, Write as _},
    net::TcpListener,
    path::Path,
};

/// Not a test of its own: answers on `HOST:PORT` until it is ended. `/health` is 503 while a file
/// `sick` lies in its directory, `/env` tells its environment.
#[test]
#[ignore = "a service of the tests beside it"]
fn the_service_of_the_tests() {
    let var = |name| std::env::var(name).unwrap();
    let listener = TcpListener::bind(format!("{}:{}", var("HOST"), var("PORT"))).unwrap();
    println!("\nlistening on {}", var("PORT"));
    eprintln!("a word on stderr");
    for stream in listener.incoming() {
        let mut stream = stream.unwrap();
        let mut head = [0; 2048];
        let read = stream.read(&mut head).unwrap_or(0);
        let head = String::from_utf8_lossy(&head[..read]).into_owned();
        let (status, body) = if head.starts_with("GET /env ") {
            let env = std::env::vars().map(|(name, value)| format!("{name}={value}\n"));
            ("200 OK", env.collect())
        } else if head.starts_with("GET /exit ") {
            panic!("asked to");
        } else if Path::new("sick").exists() {
            ("503 Service Unavailable", "sick".to_owned())
        } else {
            ("200 OK", std::process::id().to_string())
        };
        let length = body.len();
        let answer = format!(
            "HTTP/1.1 {status}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}"
        );
        let _ = stream.write_all(answer.as_bytes());
    }
}
