//! One echo of USB/IP's shape (48 bytes ask, 66 answer) on several runtimes, each on a thread of
//! its own on the first core, asked in turns by one blocking client on the last.
//!
//! ```text
//! echoes [SECONDS]
//! ```
//!
//! Prints, for each runtime and depth, the median over rounds of rate and p50 latency relative to a
//! thread that only calls `read` and `write`.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use usbip_fast_native::backend::{self, Backend, Options};
use usbip_fast_native::{Arena, Block, Handle, Op, Piece, Token, affinity, socket};

const REQUEST: usize = 48;
const REPLY: usize = 66;
const BUFFER: usize = 64 * 1024;
const ROUNDS: usize = 9;

/// Tells the address that it listens at, then serves the one connection that comes.
type Echo = fn(mpsc::Sender<SocketAddr>);

const ECHOES: [(&str, Echo); 6] = [
    ("read and write", blocking),
    ("usbip-fast, io_uring", |told| native(told, Backend::IoUring, false)),
    ("usbip-fast, io_uring, registered", |told| native(told, Backend::IoUring, true)),
    ("usbip-fast, epoll", |told| native(told, Backend::Epoll, false)),
    ("monoio", monoio_echo),
    ("glommio", glommio_echo),
];

fn main() {
    let seconds = std::env::args().nth(1).map_or(1.0, |text| text.parse().expect("seconds"));
    let round = Duration::from_secs_f64(seconds);
    let mut clients: Vec<TcpStream> = ECHOES.iter().map(|&(_, echo)| start(echo)).collect();
    let _ = affinity::pin(affinity::cores() - 1);
    for depth in [1, 32] {
        let mut ratios = vec![(Vec::new(), Vec::new()); ECHOES.len()];
        for _ in 0..ROUNDS {
            let results: Vec<_> =
                clients.iter_mut().map(|client| ask(client, depth, round).expect("echo")).collect();
            for (ratio, result) in ratios.iter_mut().zip(&results) {
                ratio.0.push(result.0 / results[0].0);
                ratio.1.push(result.1 / results[0].1);
            }
        }
        for ((name, _), (rates, latencies)) in ECHOES.iter().zip(ratios) {
            let (rate, latency) = (median(rates), median(latencies));
            println!("depth {depth}, {name}: rate {rate:.3}, p50 latency {latency:.3}");
        }
    }
}

fn start(echo: Echo) -> TcpStream {
    let (told, address) = mpsc::channel();
    thread::spawn(move || {
        let _ = affinity::pin(0);
        echo(told);
    });
    let stream = TcpStream::connect(address.recv().expect("the echo listens")).expect("loopback");
    stream.set_nodelay(true).expect("a TCP socket");
    stream
}

/// Requests in a second and the median latency in seconds.
fn ask(stream: &mut TcpStream, depth: usize, duration: Duration) -> io::Result<(f64, f64)> {
    let requests = vec![0; REQUEST * depth];
    let mut buffer = vec![0; BUFFER];
    let mut latencies = Vec::with_capacity(1 << 20);
    let begun = Instant::now();
    let mut count = 0;
    while begun.elapsed() < duration {
        let start = Instant::now();
        stream.write_all(&requests)?;
        stream.read_exact(&mut buffer[..REPLY * depth])?;
        latencies.push(start.elapsed().as_secs_f64());
        count += depth;
    }
    let rate = count as f64 / begun.elapsed().as_secs_f64();
    Ok((rate, median(latencies)))
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn listen(told: &mpsc::Sender<SocketAddr>) -> TcpListener {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
    told.send(listener.local_addr().expect("bound")).expect("the client waits");
    listener
}

/// Complete requests among the bytes so far, which are taken away.
fn complete(bytes: &mut usize) -> usize {
    let complete = *bytes / REQUEST;
    *bytes %= REQUEST;
    complete
}

fn blocking(told: mpsc::Sender<SocketAddr>) {
    let (mut stream, _) = listen(&told).accept().expect("the client connects");
    stream.set_nodelay(true).expect("a TCP socket");
    let (mut buffer, replies) = (vec![0; BUFFER], vec![0; BUFFER * 2]);
    let mut bytes = 0;
    while let Ok(1..) = stream.read(&mut buffer).inspect(|count| bytes += count) {
        let count = complete(&mut bytes);
        if stream.write_all(&replies[..count * REPLY]).is_err() {
            return;
        }
    }
}

fn native(told: mpsc::Sender<SocketAddr>, backend: Backend, registered: bool) {
    let options = Options { registered, ..Options::default() };
    let mut reactor = backend::open(backend, &options).expect("a reactor").reactor;
    let (stream, _) = listen(&told).accept().expect("the client connects");
    stream.set_nonblocking(true).expect("a socket");
    let connection = Handle::new(OwnedFd::from(stream));
    socket::tune(&connection).expect("a TCP socket");
    let arena = Arena::new(16 << 20);
    let block = |bytes| Block::from(arena.take(bytes).expect("room"));
    let (receiving, sending) = (Token::new(1, 0, 0), Token::new(2, 0, 0));
    let mut receive_buffer = Some(block(BUFFER));
    let mut send_buffer = Some(block(2 * BUFFER));
    let (mut bytes, mut completions) = (0, Vec::new());
    loop {
        let count = complete(&mut bytes);
        if count > 0 {
            let block = send_buffer.take().expect("the last answer has left");
            let pieces = [Some(Piece { block, range: 0..count * REPLY }), None];
            reactor.submit(Op::Send { socket: connection.clone(), pieces, quiet: true }, sending);
        }
        if let Some(block) = receive_buffer.take() {
            let pieces = [Some(Piece { block, range: 0..BUFFER }), None];
            reactor.submit(Op::Receive { socket: connection.clone(), pieces }, receiving);
        }
        reactor.turn(None, &mut completions);
        for completion in completions.drain(..) {
            let Ok(count @ 1..) = completion.moved() else { return };
            let token = completion.token;
            let piece = completion.pieces.into_iter().flatten().next().expect("one piece");
            if token == receiving {
                bytes += count;
                receive_buffer = Some(piece.block);
            } else {
                assert_eq!(count, piece.range.len(), "answers are small");
                send_buffer = Some(piece.block);
            }
        }
    }
}

fn monoio_echo(told: mpsc::Sender<SocketAddr>) {
    use monoio::io::{AsyncReadRent, AsyncWriteRentExt};

    let mut runtime = monoio::RuntimeBuilder::<monoio::IoUringDriver>::new()
        .build()
        .expect("monoio has its ring");
    runtime.block_on(async move {
        let listener = monoio::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
        told.send(listener.local_addr().expect("bound")).expect("the client waits");
        let (mut stream, _) = listener.accept().await.expect("the client connects");
        stream.set_nodelay(true).expect("a TCP socket");
        let (mut buffer, mut replies) = (vec![0; BUFFER], Vec::with_capacity(2 * BUFFER));
        let mut bytes = 0;
        loop {
            let (read, returned) = stream.read(buffer).await;
            buffer = returned;
            let Ok(count @ 1..) = read else { return };
            bytes += count;
            replies.resize(complete(&mut bytes) * REPLY, 0);
            let (written, returned) = stream.write_all(replies).await;
            replies = returned;
            if written.is_err() {
                return;
            }
        }
    });
}

fn glommio_echo(told: mpsc::Sender<SocketAddr>) {
    use futures_lite::{AsyncReadExt, AsyncWriteExt};

    let executor = glommio::LocalExecutorBuilder::new(glommio::Placement::Fixed(0))
        .make()
        .expect("glommio has its rings");
    executor.run(async move {
        let listener = glommio::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
        told.send(listener.local_addr().expect("bound")).expect("the client waits");
        let mut stream = listener.accept().await.expect("the client connects");
        stream.set_nodelay(true).expect("a TCP socket");
        let (mut buffer, replies) = (vec![0; BUFFER], vec![0; 2 * BUFFER]);
        let mut bytes = 0;
        while let Ok(count @ 1..) = stream.read(&mut buffer).await {
            bytes += count;
            let count = complete(&mut bytes);
            if stream.write_all(&replies[..count * REPLY]).await.is_err() {
                return;
            }
        }
    });
}
