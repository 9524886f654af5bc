//! Blocks of ordinary memory, in chunks that a reactor may register with the kernel.
//!
//! An arena belongs to one core. Memory comes from the system in chunks on demand, is handed out
//! as blocks of a few sizes, and goes back with [`Arena::trim`]. Taking and dropping a block that
//! is in stock costs no system call and no heap allocation.

use std::cell::{Cell, RefCell};
use std::ptr::NonNull;
use std::rc::{Rc, Weak};

/// Alignment of every block, one cache line.
pub const BLOCK_ALIGNMENT: usize = 64;

/// Sizes of blocks in stock, in bytes. Each leaves room for a 64-byte head and for isochronous
/// descriptors beside a round payload; larger blocks are a chunk of their own.
const CLASSES: [usize; 7] = [512, 2 * KIB, 5 * KIB, 18 * KIB, 66 * KIB, 132 * KIB, 264 * KIB];

/// Size of a chunk that is cut into blocks, in bytes.
const CHUNK_BYTES: usize = 1024 * KIB;

/// Blocks larger than the last class are rounded up to this, in bytes, to be found again in stock.
const LARGE_STEP: usize = 64 * KIB;

const KIB: usize = 1024;

/// The memory of one core.
#[derive(Clone, Debug)]
pub struct Arena(Rc<Shared>);

#[derive(Debug)]
struct Shared {
    limit_bytes: usize,
    chunk_bytes: Cell<usize>,
    lent_blocks: Cell<usize>,
    stock: RefCell<Stock>,
}

#[derive(Debug, Default)]
struct Stock {
    classes: [Vec<Free>; CLASSES.len()],
    large: Vec<Free>,
}

#[derive(Debug)]
struct Free {
    chunk: Rc<Chunk>,
    offset: usize,
    length: usize,
}

impl Arena {
    /// An empty arena that will hold at most `limit_bytes` of chunks.
    #[must_use]
    pub fn new(limit_bytes: usize) -> Self {
        Self(Rc::new(Shared {
            limit_bytes,
            chunk_bytes: Cell::new(0),
            lent_blocks: Cell::new(0),
            stock: RefCell::new(Stock::default()),
        }))
    }

    /// Takes a block of at least `bytes` bytes, or `None` at the arena's limit or when the system
    /// has no memory. The content is whatever its last owner left.
    #[must_use]
    pub fn take(&self, bytes: usize) -> Option<ArenaBlock> {
        assert!(bytes > 0, "a block has at least one byte");
        let free = match CLASSES.iter().position(|&size| size >= bytes) {
            Some(class) => self.take_class(class)?,
            None => self.take_large(bytes.checked_next_multiple_of(LARGE_STEP)?)?,
        };
        assert!(free.length >= bytes && free.offset + free.length <= free.chunk.length);
        free.chunk.lent.set(free.chunk.lent.get() + 1);
        self.0.lent_blocks.set(self.0.lent_blocks.get() + 1);
        Some(ArenaBlock {
            chunk: free.chunk,
            offset: free.offset,
            length: free.length,
            home: Rc::downgrade(&self.0),
        })
    }

    /// Gives chunks of which no block is lent back to the system. Called when a core is idle.
    pub fn trim(&self) {
        let mut stock = self.0.stock.borrow_mut();
        let Stock { classes, large } = &mut *stock;
        for list in classes.iter_mut().chain(std::iter::once(large)) {
            list.retain(|free| free.chunk.lent.get() > 0);
            list.shrink_to_fit();
        }
    }

    /// Bytes of chunks held from the system, lent or in stock.
    #[must_use]
    pub fn chunk_bytes(&self) -> usize {
        self.0.chunk_bytes.get()
    }

    /// Blocks handed out and not yet dropped.
    #[must_use]
    pub fn lent_blocks(&self) -> usize {
        self.0.lent_blocks.get()
    }

    fn take_class(&self, class: usize) -> Option<Free> {
        if let Some(free) = self.0.stock.borrow_mut().classes[class].pop() {
            return Some(free);
        }
        let chunk = self.new_chunk(CHUNK_BYTES)?;
        let size = CLASSES[class];
        let mut stock = self.0.stock.borrow_mut();
        let list = &mut stock.classes[class];
        let count = CHUNK_BYTES / size;
        list.reserve(count);
        for index in (0..count).rev() {
            list.push(Free { chunk: Rc::clone(&chunk), offset: index * size, length: size });
        }
        list.pop()
    }

    fn take_large(&self, length: usize) -> Option<Free> {
        let mut stock = self.0.stock.borrow_mut();
        if let Some(index) = stock.large.iter().position(|free| free.length == length) {
            return Some(stock.large.swap_remove(index));
        }
        stock.large.reserve(1);
        drop(stock);
        let chunk = self.new_chunk(length)?;
        Some(Free { chunk, offset: 0, length })
    }

    fn new_chunk(&self, length: usize) -> Option<Rc<Chunk>> {
        let fits = || length <= self.0.limit_bytes.saturating_sub(self.0.chunk_bytes.get());
        if !fits() {
            // Blocks of other sizes in stock must not starve this one at the limit.
            self.trim();
            if !fits() {
                return None;
            }
        }
        let chunk = Chunk::map(length, Rc::downgrade(&self.0))?;
        self.0.chunk_bytes.set(self.0.chunk_bytes.get() + length);
        Some(Rc::new(chunk))
    }
}

/// A block of an arena; returns to it when dropped.
#[derive(Debug)]
pub struct ArenaBlock {
    chunk: Rc<Chunk>,
    offset: usize,
    length: usize,
    home: Weak<Shared>,
}

impl ArenaBlock {
    /// Usable bytes.
    #[must_use]
    pub fn len(&self) -> usize {
        self.length
    }

    /// Never true: an arena hands out no empty block.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// First byte; aligned to [`BLOCK_ALIGNMENT`].
    #[must_use]
    pub fn as_non_null(&self) -> NonNull<u8> {
        // SAFETY: offset + length lies within the chunk, checked when the block was taken.
        unsafe { self.chunk.address.add(self.offset) }
    }

    /// The chunk this block is part of: what a reactor registers with its kernel queue.
    #[must_use]
    pub fn chunk(&self) -> &Rc<Chunk> {
        &self.chunk
    }

    /// Where in its chunk the block begins, in bytes.
    #[must_use]
    pub fn offset(&self) -> usize {
        self.offset
    }
}

impl Drop for ArenaBlock {
    fn drop(&mut self) {
        let lent = self.chunk.lent.get();
        assert!(lent > 0, "a block is dropped once");
        self.chunk.lent.set(lent - 1);
        let Some(home) = self.home.upgrade() else { return };
        home.lent_blocks.set(home.lent_blocks.get() - 1);
        let free = Free { chunk: Rc::clone(&self.chunk), offset: self.offset, length: self.length };
        let mut stock = home.stock.borrow_mut();
        match CLASSES.iter().position(|&size| size == self.length) {
            Some(class) => stock.classes[class].push(free),
            None => stock.large.push(free),
        }
    }
}

/// A mapping from the system, cut into blocks.
#[derive(Debug)]
pub struct Chunk {
    address: NonNull<u8>,
    length: usize,
    lent: Cell<usize>,
    home: Weak<Shared>,
    /// Where a reactor notes how it registered this chunk; `None` until the first use.
    pub registration: Cell<Option<Registration>>,
}

/// How a reactor knows a chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Registration {
    /// Slot of the table of registered buffers.
    Slot(u16),
    /// The kernel refused (RLIMIT_MEMLOCK, table full): used as plain memory.
    Refused,
}

impl Chunk {
    fn map(length: usize, home: Weak<Shared>) -> Option<Self> {
        // SAFETY: an anonymous mapping at an address of the kernel's choice touches nothing that
        // exists.
        let address = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                length,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANON,
                -1,
                0,
            )
        };
        if address == libc::MAP_FAILED {
            return None;
        }
        let address = NonNull::new(address.cast::<u8>())?;
        Some(Self { address, length, lent: Cell::new(0), home, registration: Cell::new(None) })
    }

    /// First byte of the mapping, page aligned.
    #[must_use]
    pub fn address(&self) -> NonNull<u8> {
        self.address
    }

    /// Bytes of the mapping.
    #[must_use]
    pub fn length(&self) -> usize {
        self.length
    }
}

impl Drop for Chunk {
    fn drop(&mut self) {
        assert_eq!(self.lent.get(), 0, "a chunk outlives its blocks");
        if let Some(home) = self.home.upgrade() {
            home.chunk_bytes.set(home.chunk_bytes.get() - self.length);
        }
        // SAFETY: the mapping is ours alone: every block of it is gone, checked above.
        let result = unsafe { libc::munmap(self.address.as_ptr().cast(), self.length) };
        assert_eq!(result, 0, "an own mapping can be unmapped");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_aligned_distinct_and_come_back() {
        let arena = Arena::new(8 * 1024 * KIB);
        let blocks: Vec<_> = (0..100).map(|_| arena.take(600).expect("within limit")).collect();
        let mut starts: Vec<_> =
            blocks.iter().map(|block| block.as_non_null().as_ptr() as usize).collect();
        starts.sort_unstable();
        assert!(starts.iter().all(|start| start % BLOCK_ALIGNMENT == 0));
        assert!(starts.windows(2).all(|pair| pair[1] - pair[0] >= 600));
        assert_eq!(arena.lent_blocks(), 100);
        drop(blocks);
        assert_eq!(arena.lent_blocks(), 0);
        arena.trim();
        assert_eq!(arena.chunk_bytes(), 0);
    }

    #[test]
    fn limit_refuses_and_recovers() {
        let arena = Arena::new(17 * 1024 * KIB);
        let large = arena.take(16 * 1024 * KIB + 64).expect("fits");
        assert!(arena.take(1024 * KIB).is_none());
        drop(large);
        assert!(arena.take(1024 * KIB).is_some(), "idle large blocks make room");
    }

    #[test]
    fn stock_of_one_size_does_not_starve_another() {
        let arena = Arena::new(2 * CHUNK_BYTES);
        drop(arena.take(512).expect("a chunk"));
        let kept = arena.take(2 * KIB).expect("the other chunk");
        assert!(arena.take(18 * KIB).is_some(), "the first chunk is idle");
        assert!(arena.take(264 * KIB).is_some(), "and is again");
        let whole = arena.take(CHUNK_BYTES).expect("and for a block of its own");
        assert!(arena.take(18 * KIB).is_none(), "now both chunks have lent blocks");
        drop((kept, whole));
    }

    #[test]
    fn blocks_may_outlive_their_arena() {
        let arena = Arena::new(2 * 1024 * KIB);
        let block = arena.take(100).expect("fits");
        drop(arena);
        assert_eq!(block.len(), 512);
    }
}
