//! Files of simulated devices: one that a thread of its own writes, so that nobody waits for the
//! disk, and one that is read whole beforehand.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::Path;
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

/// A file that a thread of its own writes.
///
/// Nothing here waits: what finds no room in the queue is refused. Only dropping the spool waits,
/// until everything is written.
#[derive(Debug)]
pub struct Spool {
    /// `None` once the thread is to end.
    orders: Option<SyncSender<Order>>,
    /// Chunks that were written, to be filled again.
    written: Receiver<Vec<u8>>,
    failure: Arc<Mutex<Option<String>>>,
    thread: Option<JoinHandle<()>>,
    chunk_bytes: usize,
}

/// Four bytes that are written over what stands at a place of the file, from its front.
pub type Patch = (u64, [u8; 4]);

/// What the thread is to do, in this order.
#[derive(Debug)]
struct Order {
    empty: bool,
    chunk: Vec<u8>,
    patches: [Option<Patch>; 2],
}

impl Spool {
    /// A spool for a file that is opened and emptied at once, by the thread; whether that went well
    /// is in [`failure`](Spool::failure). Its queue has room for `chunks` chunks; those it gives
    /// out have `chunk_bytes` bytes.
    #[must_use]
    pub fn new(path: &Path, chunks: usize, chunk_bytes: usize) -> Self {
        let (orders, receiver) = sync_channel(chunks);
        let (back, written) = channel();
        let failure = Arc::default();
        let (path, said) = (path.to_owned(), Arc::clone(&failure));
        let thread = std::thread::Builder::new().name("spool".to_owned()).spawn(move || {
            if let Err(error) = write_all(&path, &receiver, &back) {
                note(&said, &error);
            }
        });
        if let Err(error) = &thread {
            note(&failure, error);
        }
        Self { orders: Some(orders), written, failure, thread: thread.ok(), chunk_bytes }
    }

    /// An empty chunk to be filled: one that was written, if there is any.
    #[must_use]
    pub fn chunk(&self) -> Vec<u8> {
        let used = self.written.try_recv();
        used.unwrap_or_else(|_| Vec::with_capacity(self.chunk_bytes))
    }

    /// Empties the file and writes this at its front. False if the queue is full.
    #[must_use]
    pub fn begin(&self, chunk: Vec<u8>) -> bool {
        self.order(Order { empty: true, chunk, patches: [None; 2] })
    }

    /// Writes this at the end of the file, then the patches. False if the queue is full; then
    /// nothing of it is written.
    #[must_use]
    pub fn append(&self, chunk: Vec<u8>, patches: [Patch; 2]) -> bool {
        self.order(Order { empty: false, chunk, patches: patches.map(Some) })
    }

    /// Why the file is not whole, for people. What is handed over after a failure is refused.
    #[must_use]
    pub fn failure(&self) -> Option<String> {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn order(&self, order: Order) -> bool {
        self.orders.as_ref().is_some_and(|orders| orders.try_send(order).is_ok())
    }
}

impl Drop for Spool {
    fn drop(&mut self) {
        self.orders = None;
        if let Some(thread) = self.thread.take() {
            // A panic of the thread has been reported by the thread.
            let _ = thread.join();
        }
    }
}

/// Whether a file can be written at this place; it is made if it is not there, and left as it is if
/// it is.
///
/// # Errors
///
/// Those of opening it.
pub fn try_to_write(path: &Path) -> io::Result<()> {
    OpenOptions::new().append(true).create(true).open(path).map(drop)
}

/// The bytes of a file.
///
/// # Errors
///
/// Those of opening and reading it; `FileTooLarge` beyond `most` bytes.
pub fn read(path: &Path, most: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(most + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > most {
        let text = format!("it has more than {most} bytes");
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, text));
    }
    Ok(bytes)
}

/// Whether there is something at this path.
#[must_use]
pub fn exists(path: &Path) -> bool {
    path.exists()
}

/// Puts these bytes in the place of a file, whole or not at all; its folder is made if it is not
/// there. Only the user may read the file.
///
/// # Errors
///
/// Those of the folder and the file; what was there is as it was then.
pub fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    use std::os::unix::fs::OpenOptionsExt;
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder)?;
    }
    let mut name = path.as_os_str().to_owned();
    name.push(".new");
    let next = Path::new(&name);
    let mut file =
        OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(next)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    std::fs::rename(next, path)
}

/// The thread: ends with the first error, or with the spool.
fn write_all(path: &Path, orders: &Receiver<Order>, back: &Sender<Vec<u8>>) -> io::Result<()> {
    let mut file = File::create(path)?;
    for Order { empty, mut chunk, patches } in orders {
        if empty {
            file.set_len(0)?;
            file.rewind()?;
        }
        file.write_all(&chunk)?;
        let end = file.stream_position()?;
        for (offset, bytes) in patches.into_iter().flatten() {
            file.seek(SeekFrom::Start(offset))?;
            file.write_all(&bytes)?;
        }
        file.seek(SeekFrom::Start(end))?;
        chunk.clear();
        // The spool may be waiting for the end of this thread, and want no chunks any more.
        let _ = back.send(chunk);
    }
    Ok(())
}

fn note(failure: &Mutex<Option<String>>, error: &io::Error) {
    let mut failure = failure.lock().unwrap_or_else(PoisonError::into_inner);
    failure.get_or_insert_with(|| error.to_string());
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(name: &str) -> std::path::PathBuf {
        std::env::temp_dir().join(format!("spool-{name}-{}", std::process::id()))
    }

    #[test]
    fn chunks_and_patches_are_written_in_order() {
        let path = place("order");
        let spool = Spool::new(&path, 8, 16);
        assert!(spool.begin(b"old".to_vec()));
        assert!(spool.begin(b"head....".to_vec()));
        assert!(spool.append(b"one".to_vec(), [(4, *b"abcd"), (0, *b"HEAD")]));
        assert!(spool.append(b"two".to_vec(), [(4, *b"1234"), (0, *b"HEAD")]));
        drop(spool);
        assert_eq!(read(&path, 100).expect("there"), b"HEAD1234onetwo");
        assert_eq!(read(&path, 13).expect_err("long").kind(), io::ErrorKind::FileTooLarge);
        try_to_write(&path).expect("it can be");
        assert_eq!(read(&path, 14).expect("left as it was").len(), 14);
        std::fs::remove_file(&path).expect("it was there");
    }

    #[test]
    fn chunks_come_back() {
        let path = place("chunks");
        let spool = Spool::new(&path, 8, 16);
        let mut chunk = spool.chunk();
        assert_eq!(chunk.capacity(), 16);
        chunk.reserve(1000);
        let capacity = chunk.capacity();
        assert!(spool.begin(chunk));
        let used = std::iter::repeat_with(|| spool.chunk()).take(10_000_000);
        assert!(used.into_iter().any(|chunk| chunk.capacity() == capacity));
        drop(spool);
        std::fs::remove_file(&path).expect("it was there");
    }

    #[test]
    fn a_failure_is_kept_and_later_chunks_are_refused() {
        let path = place("none").join("file");
        let spool = Spool::new(&path, 2, 16);
        while spool.begin(b"head".to_vec()) {
            std::thread::yield_now();
        }
        assert!(try_to_write(&path).is_err());
        let mut spool = spool;
        spool.orders = None;
        spool.thread.take().expect("started").join().expect("it ends by itself");
        assert!(spool.failure().is_some());
    }
}
