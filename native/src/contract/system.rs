//! The ground of the real backends: TCP over loopback.

use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::time::Duration;

use crate::clock;
use crate::contract::Ground;
use crate::handle::Handle;
use crate::reactor::Reactor;
use crate::socket::{self, Direction};

/// Real sockets and the real clock.
pub struct System {
    /// Opens the reactor under test.
    pub open: fn() -> Box<dyn Reactor>,
    /// Counts the heap allocations of the calling thread, if the program can.
    pub allocations: fn() -> Option<u64>,
}

impl Ground for System {
    fn open(&self) -> Box<dyn Reactor> {
        (self.open)()
    }

    fn now(&self) -> Duration {
        clock::now()
    }

    fn listen(&self, backlog: u16) -> (Handle, SocketAddr) {
        let any = SocketAddr::new(Ipv4Addr::LOCALHOST.into(), 0);
        let listener = socket::listen(any, backlog).expect("loopback has a free port");
        let address = socket::local_address(&listener).expect("it is bound");
        (listener, address)
    }

    fn stream(&self, address: &SocketAddr) -> Handle {
        socket::stream(address).expect("the process may open a socket")
    }

    fn pair(&self) -> (Handle, Handle) {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
        let address = listener.local_addr().expect("it is bound");
        let one = TcpStream::connect(address).expect("loopback connects");
        let (two, _) = listener.accept().expect("the connection is there");
        let handle = |stream: TcpStream| {
            stream.set_nonblocking(true).expect("a socket can be non-blocking");
            let handle = Handle::new(OwnedFd::from(stream));
            socket::tune(&handle).expect("a TCP socket can be tuned");
            handle
        };
        (handle(one), handle(two))
    }

    fn shutdown(&self, socket: &Handle, direction: Direction) {
        socket::shutdown(socket, direction).expect("it is connected");
    }

    fn reset_on_close(&self, socket: &Handle) {
        socket::reset_on_close(socket).expect("it is a socket");
    }

    fn allocations(&self) -> Option<u64> {
        (self.allocations)()
    }
}
