//! The service that sandboxes of the tests consist of, as a program that needs nothing but a
//! kernel: it is compiled alone, linked statically, and is all that its image holds.
//!
//! Answers on `HOST:PORT`: `/` its process id, `/env` its environment, `/file/PATH` a file's mode
//! and text, `/write/PATH` makes a file, `/reach/HOST/PORT` whether it can connect there,
//! `/sicken` and `/heal` change `/health`, `/exit` ends it. With arguments: `say TEXT CODE` writes and ends, `reach HOST PORT` fails unless it can connect there, `sleep` does
//! nothing for ever, `tick MILLISECONDS` writes a numbered line each time.

use std::{
    io::{Read as _, Write as _},
    net::{TcpListener, TcpStream},
    os::unix::fs::PermissionsExt as _,
    time::Duration,
};

unsafe extern "C" {
    fn signal(number: i32, handler: extern "C" fn(i32)) -> usize;
    fn write(to: i32, text: *const u8, length: usize) -> isize;
    fn _exit(code: i32) -> !;
}

extern "C" fn ended(_: i32) {
    let text = b"ended by TERM\n";
    // SAFETY: both may be called in a handler, and the text outlives the call.
    unsafe {
        write(1, text.as_ptr(), text.len());
        _exit(0)
    }
}

fn main() {
    // SAFETY: the handler only makes calls that are allowed in one.
    unsafe { signal(15, ended) };
    let mut words = std::env::args();
    if !words.next().unwrap_or_default().ends_with("service") {
        check();
        return;
    }
    let words: Vec<String> = words.collect();
    match words.first().map(String::as_str) {
        Some("say") => {
            println!("{}", words[1]);
            std::process::exit(words[2].parse().unwrap());
        }
        Some("reach") => {
            let port = words[2].parse().unwrap();
            if let Err(error) = TcpStream::connect((words[1].as_str(), port)) {
                println!("not reached: {error}");
                std::process::exit(4);
            }
        }
        Some("sleep") => loop {
            std::thread::sleep(Duration::from_secs(1000));
        },
        Some("tick") => {
            let pause = Duration::from_millis(words[1].parse().unwrap());
            for number in 0_u64.. {
                println!("tick {number}");
                std::thread::sleep(pause);
            }
        }
        _ => serve(),
    }
}

/// Under any other name it is the health check of what it stands for.
fn check() {
    let port: u16 = std::env::var("PORT").unwrap().parse().unwrap();
    TcpStream::connect(("127.0.0.1", port)).unwrap();
}

fn serve() {
    let var = |name| std::env::var(name).unwrap();
    let listener = TcpListener::bind(format!("{}:{}", var("HOST"), var("PORT"))).unwrap();
    println!("listening on {}", var("PORT"));
    eprintln!("a word on stderr");
    let mut sick = false;
    for stream in listener.incoming() {
        let mut stream = stream.unwrap();
        let mut head = [0; 2048];
        let read = stream.read(&mut head).unwrap_or(0);
        let head = String::from_utf8_lossy(&head[..read]).into_owned();
        let path = head.split(' ').nth(1).unwrap_or("/").to_owned();
        let body = match path.as_str() {
            "/env" => std::env::vars().map(|(name, value)| format!("{name}={value}\n")).collect(),
            "/exit" => {
                println!("asked to end");
                std::process::exit(101);
            }
            "/sicken" | "/heal" => {
                sick = path == "/sicken";
                String::new()
            }
            "/" => std::process::id().to_string(),
            _ => special(&path).unwrap_or_else(|error| error.to_string()),
        };
        let status = if path == "/health" && sick { "503 Sick" } else { "200 OK" };
        let length = body.len();
        let answer = format!("HTTP/1.1 {status}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}");
        let _ = stream.write_all(answer.as_bytes());
    }
}

fn special(path: &str) -> std::io::Result<String> {
    if let Some(path) = path.strip_prefix("/file") {
        let mode = std::fs::metadata(path)?.permissions().mode() & 0o7777;
        return Ok(format!("{mode:o} {}", std::fs::read_to_string(path)?));
    }
    if let Some(path) = path.strip_prefix("/write") {
        std::fs::write(path, "written")?;
    }
    if let Some((host, port)) = path.strip_prefix("/reach/").and_then(|rest| rest.split_once('/')) {
        TcpStream::connect((host, port.parse().unwrap_or(0)))?;
        return Ok("reached".into());
    }
    Ok(String::new())
}
