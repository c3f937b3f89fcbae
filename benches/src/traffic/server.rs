//! The server on a real.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Context, Result};
use tokio::net::{TcpListener, TcpSocket, TcpStream, UdpSocket};

use crate::lab::Namespace;

use super::background::Background;
use super::message::{MAX_PAYLOAD, datagram_answer, serve_stream};

const BACKLOG: u32 = 4096;

/// A TCP and UDP server in a namespace; dropping it ends it with all its connections.
#[derive(Debug)]
pub struct Server {
    number: u16,
    accepted: Arc<AtomicU64>,
    _background: Background,
}

impl Server {
    /// Starts a server that calls itself `number` on `port` of `addresses`, which `namespace` must
    /// have: datagrams are answered from the address they went to.
    pub fn start(
        namespace: &Namespace,
        number: u16,
        addresses: &[IpAddr],
        port: u16,
    ) -> Result<Self> {
        let addresses: Vec<SocketAddr> = addresses.iter().map(|&ip| (ip, port).into()).collect();
        let accepted = Arc::new(AtomicU64::new(0));
        let counter = Arc::clone(&accepted);
        let background = Background::start(namespace, move || {
            addresses
                .iter()
                .try_for_each(|&address| bind(number, address, &counter))
        })?;
        Ok(Self {
            number,
            accepted,
            _background: background,
        })
    }

    /// The number it answers with.
    pub fn number(&self) -> u16 {
        self.number
    }

    /// TCP connections accepted since the start.
    pub fn accepted(&self) -> u64 {
        self.accepted.load(Ordering::Relaxed)
    }
}

/// Opens both sockets of an address and starts serving them.
fn bind(number: u16, address: SocketAddr, accepted: &Arc<AtomicU64>) -> Result<()> {
    let context = || format!("server {number} cannot listen on {address}");
    let socket = if address.is_ipv4() {
        TcpSocket::new_v4()
    } else {
        TcpSocket::new_v6()
    }
    .with_context(context)?;
    socket.set_reuseaddr(true).with_context(context)?;
    socket.bind(address).with_context(context)?;
    let listener = socket.listen(BACKLOG).with_context(context)?;
    let datagrams = std::net::UdpSocket::bind(address).with_context(context)?;
    datagrams.set_nonblocking(true).with_context(context)?;
    let datagrams = UdpSocket::from_std(datagrams).with_context(context)?;
    tokio::spawn(serve_connections(number, listener, Arc::clone(accepted)));
    tokio::spawn(serve_datagrams(number, datagrams));
    Ok(())
}

async fn serve_connections(number: u16, listener: TcpListener, accepted: Arc<AtomicU64>) {
    loop {
        // An error concerns one connection that its client gave up.
        if let Ok((stream, _)) = listener.accept().await {
            accepted.fetch_add(1, Ordering::Relaxed);
            tokio::spawn(serve_connection(number, stream));
        }
    }
}

async fn serve_connection(number: u16, mut stream: TcpStream) {
    // Only makes it slower where it is not possible.
    let _ = stream.set_nodelay(true);
    let mut buffer = Vec::new();
    // The client notices an error by itself, since its answer does not come.
    while let Ok(true) = serve_stream(number, &mut stream, &mut buffer).await {}
}

async fn serve_datagrams(number: u16, socket: UdpSocket) {
    let mut buffer = vec![0; MAX_PAYLOAD.min(usize::from(u16::MAX))];
    loop {
        // Errors are those of earlier answers, such as a port that is closed meanwhile.
        let Ok((length, client)) = socket.recv_from(&mut buffer).await else {
            continue;
        };
        if let Some(answer) = datagram_answer(number, &buffer[..length]) {
            let _ = socket.send_to(&answer, client).await;
        }
    }
}
