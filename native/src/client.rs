//! A blocking TCP connection with deadlines, for commands that ask a server one thing.
//!
//! A reactor never uses this. Deadlines are times of [`clock::now`].

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::os::fd::OwnedFd;
use std::time::Duration;

use crate::clock;

/// A connection to a server.
#[derive(Debug)]
pub struct Connection {
    stream: TcpStream,
}

/// Which addresses of a name may be used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Family {
    /// All of them, in the order in which the system's resolver gives them.
    #[default]
    Any,
    /// IPv4 only.
    V4,
    /// IPv6 only.
    V6,
}

impl Family {
    /// Whether `address` is of this family.
    #[must_use]
    pub fn includes(self, address: SocketAddr) -> bool {
        match self {
            Self::Any => true,
            Self::V4 => address.is_ipv4(),
            Self::V6 => address.is_ipv6(),
        }
    }
}

impl Connection {
    /// Connects to a name, an IPv4 or an IPv6 address (brackets allowed), trying each address of
    /// the name in turn until `deadline`. Name resolution itself waits as long as the system's
    /// resolver does.
    ///
    /// # Errors
    ///
    /// The error of the last address tried; [`io::ErrorKind::NotFound`] when the name has none.
    pub fn open(host: &str, port: u16, family: Family, deadline: Duration) -> io::Result<Self> {
        let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
        for address in (host, port).to_socket_addrs()?.filter(|at| family.includes(*at)) {
            match TcpStream::connect_timeout(&address, left_until(deadline)?) {
                Ok(stream) => {
                    stream.set_nodelay(true)?;
                    return Ok(Self { stream });
                }
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    /// Sends all of `bytes` before `deadline`.
    ///
    /// # Errors
    ///
    /// [`io::ErrorKind::TimedOut`] at the deadline, else what the system says.
    pub fn send(&mut self, mut bytes: &[u8], deadline: Duration) -> io::Result<()> {
        while !bytes.is_empty() {
            self.stream.set_write_timeout(Some(left_until(deadline)?))?;
            match self.stream.write(bytes) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(count) => bytes = &bytes[count..],
                Err(error) => retry(error)?,
            }
        }
        Ok(())
    }

    /// Fills `buffer`, no byte more is read, before `deadline`.
    ///
    /// # Errors
    ///
    /// [`io::ErrorKind::TimedOut`] at the deadline, [`io::ErrorKind::UnexpectedEof`] when the peer
    /// ends first, else what the system says.
    pub fn receive(&mut self, buffer: &mut [u8], deadline: Duration) -> io::Result<()> {
        let mut filled = 0;
        while filled < buffer.len() {
            self.stream.set_read_timeout(Some(left_until(deadline)?))?;
            match self.stream.read(&mut buffer[filled..]) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(count) => filled += count,
                Err(error) => retry(error)?,
            }
        }
        Ok(())
    }

    /// The address this connection reached, for messages.
    ///
    /// # Errors
    ///
    /// When the peer is gone already.
    pub fn peer(&self) -> io::Result<SocketAddr> {
        self.stream.peer_addr()
    }

    /// Gives the socket away, to the kernel for one: with no time limit left on it, because
    /// `vhci_hcd` drops a connection whose receive times out with a URB pending (kernel.md §1.10).
    ///
    /// # Errors
    ///
    /// When the limits cannot be taken off.
    pub fn into_socket(self) -> io::Result<OwnedFd> {
        self.stream.set_read_timeout(None)?;
        self.stream.set_write_timeout(None)?;
        Ok(self.stream.into())
    }

    /// As [`into_socket`](Self::into_socket), for a reactor.
    ///
    /// # Errors
    ///
    /// When the socket cannot be made non-blocking.
    pub fn into_non_blocking(self) -> io::Result<OwnedFd> {
        self.stream.set_nonblocking(true)?;
        Ok(self.stream.into())
    }
}

/// Lets this thread wait. Commands and helpers only, never a reactor.
pub fn pause(duration: Duration) {
    std::thread::sleep(duration);
}

fn left_until(deadline: Duration) -> io::Result<Duration> {
    match deadline.saturating_sub(clock::now()) {
        // A zero limit would mean none at all.
        Duration::ZERO => Err(io::ErrorKind::TimedOut.into()),
        left => Ok(left),
    }
}

/// A time limit that ran out is judged by [`left_until`] on the next round, with one wording.
fn retry(error: io::Error) -> io::Result<()> {
    match error.kind() {
        io::ErrorKind::Interrupted | io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => Ok(()),
        _ => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    fn soon(milliseconds: u64) -> Duration {
        clock::now() + Duration::from_millis(milliseconds)
    }

    #[test]
    fn exact_reads_and_no_limit_left_behind() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("loopback");
        let port = listener.local_addr().expect("bound").port();
        let mut client =
            Connection::open("127.0.0.1", port, Family::V4, soon(5000)).expect("connected");
        let (mut server, _) = listener.accept().expect("accepted");
        client.send(b"ask", soon(5000)).expect("sent");
        let mut question = [0; 3];
        server.read_exact(&mut question).expect("received");
        server.write_all(b"answerrest").expect("sent");
        let mut answer = [0; 6];
        client.receive(&mut answer, soon(5000)).expect("received");
        assert_eq!(&answer, b"answer");
        let mut stream = TcpStream::from(client.into_socket().expect("free of limits"));
        assert_eq!(stream.read_timeout().expect("readable"), None);
        assert_eq!(stream.write_timeout().expect("readable"), None);
        let mut rest = [0; 4];
        stream.read_exact(&mut rest).expect("nothing was read ahead");
        assert_eq!(&rest, b"rest");
    }

    #[test]
    fn silence_ends_at_the_deadline() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("loopback");
        let port = listener.local_addr().expect("bound").port();
        let mut client =
            Connection::open("127.0.0.1", port, Family::Any, soon(5000)).expect("connected");
        let error = client.receive(&mut [0; 1], soon(30)).expect_err("nobody answers");
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }

    #[test]
    fn a_name_without_an_address_of_the_family_is_an_error() {
        let error = Connection::open("127.0.0.1", 1, Family::V6, soon(1000)).expect_err("no v6");
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
    }
}
