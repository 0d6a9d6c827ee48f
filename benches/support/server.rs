//! A local HTTP/1.1 server in a process of its own. It does as little as it can, so that what is measured is
//! the client: it reads a request, waits if told so, and answers 200 with two bytes.

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::work::Outcome;

const ANSWER: &[u8] =
    b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{}";

/// The server as its parent sees it. Dropped, it ends.
#[derive(Debug)]
pub(crate) struct Server {
    child: Child,
    pub(crate) url: String,
}

impl Server {
    /// Runs this program again, as `serve <milliseconds>`.
    pub(crate) fn start(delay: Duration) -> Outcome<Self> {
        let mut child = Command::new(std::env::current_exe()?)
            .args(["serve", &delay.as_millis().to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let mut port = String::new();
        let output = child.stdout.take().ok_or("a server without output")?;
        BufReader::new(output).read_line(&mut port)?;
        let url = format!("http://127.0.0.1:{}", port.trim());
        Ok(Self { child, url })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended already.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// Serves until the parent is gone.
pub(crate) fn serve(delay: Duration) -> Outcome<()> {
    std::thread::spawn(|| {
        // The end of the input, however it comes, is the end of the parent.
        drop(std::io::stdin().read(&mut [0]));
        std::process::exit(0);
    });
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        println!("{}", listener.local_addr()?.port());
        loop {
            let (stream, _) = listener.accept().await?;
            stream.set_nodelay(true)?;
            // A client that hangs up is no failure.
            tokio::spawn(async move { drop(converse(stream, delay).await) });
        }
    })
}

async fn converse(mut stream: TcpStream, delay: Duration) -> std::io::Result<()> {
    let mut buffer = vec![0; 64 * 1024];
    let mut filled = 0;
    loop {
        while let Some(length) = whole(&buffer[..filled]) {
            if !delay.is_zero() {
                tokio::time::sleep(delay).await;
            }
            stream.write_all(ANSWER).await?;
            buffer.copy_within(length..filled, 0);
            filled -= length;
        }
        let read = stream.read(&mut buffer[filled..]).await?;
        if read == 0 {
            return Ok(());
        }
        filled += read;
    }
}

/// The length of the request that `bytes` start with, once it is there as a whole.
fn whole(bytes: &[u8]) -> Option<usize> {
    let head = bytes.windows(4).position(|end| end == b"\r\n\r\n")? + 4;
    let text = std::str::from_utf8(&bytes[..head]).ok()?;
    let length = text.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        let is_length = name.eq_ignore_ascii_case("content-length");
        is_length
            .then(|| value.trim().parse::<usize>().ok())
            .flatten()
    });
    let total = head + length.unwrap_or(0);
    (bytes.len() >= total).then_some(total)
}
