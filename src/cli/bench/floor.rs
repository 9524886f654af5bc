//! The floor: what TCP itself costs for messages of the same sizes.
//!
//! An echo on a thread of its own reads what is there, up to 64 KiB, and answers every complete
//! request in one write. It knows nothing of USB: no server that speaks to its sockets with one
//! call each way can be faster.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::thread::JoinHandle;
use std::time::Duration;

use usbip_fast_native::{affinity, clock};

use super::load::WireBytes;
use super::sample::Sample;

/// Bytes that the echo reads at once.
const ECHO_READ_BYTES: usize = 64 * 1024;

/// Bytes that the client reads at once: a large answer and the header of the next.
const CLIENT_READ_BYTES: usize = 128 * 1024;

/// The echo, and a connection to it.
pub(super) struct Floor {
    /// Taken when it is time to end the echo.
    stream: Option<TcpStream>,
    echo: Option<JoinHandle<io::Result<()>>>,
    sizes: WireBytes,
    depth: usize,
    requests: Vec<u8>,
    buffer: Vec<u8>,
}

impl Floor {
    /// Starts the echo; with `pin` on the first core.
    pub(super) fn start(sizes: WireBytes, depth: u32, pin: bool) -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let address = listener.local_addr()?;
        let depth = depth as usize;
        let echo = affinity::spawn("floor-echo", move || {
            if pin {
                // Where threads cannot be bound, the warning about our own thread says so.
                let _ = affinity::pin(0);
            }
            echo(&listener, sizes)
        })?;
        let stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        Ok(Self {
            stream: Some(stream),
            echo: Some(echo),
            sizes,
            depth,
            requests: vec![0; sizes.request * depth],
            buffer: vec![0; CLIENT_READ_BYTES],
        })
    }

    /// Keeps all requests in flight for `duration`, then waits until they are answered.
    pub(super) fn run(
        &mut self,
        duration: Duration,
        progress: &mut dyn FnMut(&Sample),
    ) -> io::Result<Sample> {
        let Self { stream, sizes, depth, requests, buffer, .. } = self;
        let stream = stream.as_mut().expect("taken at the end only");
        let mut sample = Sample::new();
        let until = sample.now() + duration;
        let mut begun = VecDeque::with_capacity(*depth);
        let mut now = sample.now();
        let mut next = *depth;
        let mut bytes = 0;
        loop {
            if next > 0 {
                begun.extend(std::iter::repeat_n(now, next));
                stream.write_all(&requests[..next * sizes.request])?;
            }
            if begun.is_empty() {
                return Ok(sample);
            }
            bytes += read(stream, buffer)?;
            now = clock::now();
            next = bytes / sizes.reply;
            bytes %= sizes.reply;
            for start in begun.drain(..next) {
                // Each transfer reads the clock, as it does with a device.
                sample.record(start, clock::now(), sizes.payload as u64);
            }
            if now >= until {
                next = 0;
            }
            progress(&sample);
        }
    }
}

impl Drop for Floor {
    fn drop(&mut self) {
        self.stream = None;
        if let Some(echo) = self.echo.take() {
            // Its connection is gone; how it takes that is of no interest any more.
            let _ = echo.join();
        }
    }
}

fn echo(listener: &TcpListener, sizes: WireBytes) -> io::Result<()> {
    let (mut stream, _) = listener.accept()?;
    stream.set_nodelay(true)?;
    let mut buffer = vec![0; ECHO_READ_BYTES];
    let most = ECHO_READ_BYTES / sizes.request + 1;
    let replies = vec![0; most * sizes.reply];
    let mut bytes = 0;
    loop {
        bytes += match read(&mut stream, &mut buffer) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(()),
            result => result?,
        };
        let complete = bytes / sizes.request;
        bytes %= sizes.request;
        stream.write_all(&replies[..complete * sizes.reply])?;
    }
}

fn read(stream: &mut TcpStream, buffer: &mut [u8]) -> io::Result<usize> {
    loop {
        match stream.read(buffer) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_echo_answers_every_request_once() {
        for (request, reply, depth) in [(48, 66, 1), (48, 66, 32), (48, 70_000, 8), (70_000, 48, 3)]
        {
            let sizes = WireBytes { request, reply, payload: 18 };
            let mut floor = Floor::start(sizes, depth, false).expect("loopback");
            for _ in 0..2 {
                let sample =
                    floor.run(Duration::from_millis(20), &mut |_| {}).expect("an honest echo");
                assert!(sample.urbs >= u64::from(depth), "{} transfers", sample.urbs);
                assert_eq!(sample.bytes, sample.urbs * 18);
            }
        }
    }
}
