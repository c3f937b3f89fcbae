//! A web server that only says who it is, for looking around with `curl`.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use anyhow::{Context, Result};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::lab::Namespace;

use super::background::Background;

/// A running web server; dropping it ends it.
#[derive(Debug)]
pub struct WebServer {
    _background: Background,
}

impl WebServer {
    /// Answers every request to `port` of `addresses` with `body`.
    pub fn start(
        namespace: &Namespace,
        addresses: &[IpAddr],
        port: u16,
        body: &str,
    ) -> Result<Self> {
        let answer: Arc<str> = format!(
            "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: {}\r\n\
             Connection: close\r\n\r\n{body}",
            body.len()
        )
        .into();
        let addresses: Vec<SocketAddr> = addresses.iter().map(|&ip| (ip, port).into()).collect();
        let background = Background::start(namespace, move || {
            for address in addresses {
                let listener = std::net::TcpListener::bind(address)
                    .with_context(|| format!("a web server cannot listen on {address}"))?;
                listener.set_nonblocking(true)?;
                tokio::spawn(serve(TcpListener::from_std(listener)?, Arc::clone(&answer)));
            }
            Ok(())
        })?;
        Ok(Self {
            _background: background,
        })
    }
}

async fn serve(listener: TcpListener, answer: Arc<str>) {
    loop {
        // Errors concern one connection that its client gave up.
        if let Ok((stream, _)) = listener.accept().await {
            let answer = Arc::clone(&answer);
            tokio::spawn(async move {
                let _ = reply(stream, &answer).await;
            });
        }
    }
}

/// Every request gets the same answer, so it need not be understood: the first of its bytes is
/// enough to know that it came.
async fn reply(mut stream: TcpStream, answer: &str) -> Result<()> {
    let mut request = [0; 4096];
    if stream.read(&mut request).await? == 0 {
        return Ok(());
    }
    stream.write_all(answer.as_bytes()).await?;
    stream.shutdown().await?;
    Ok(())
}
