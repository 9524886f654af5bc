//! DMA memory of one open device: areas that usbfs maps, cut into blocks.
//!
//! A URB whose buffer lies in such an area is moved by the controller without a copy. The kernel
//! accounts areas against `usbfs_memory_mb` of the whole system and refuses to pin them, so a block
//! of an area is never registered with io_uring.

use std::cell::{Cell, RefCell};
use std::os::fd::AsRawFd;
use std::ptr::NonNull;
use std::rc::Rc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use super::queue::Queue;
use crate::arena::BLOCK_ALIGNMENT;
use crate::handle::Handle;

/// Whether a program sees usbfs areas through its cache on this architecture. On x86 all DMA is
/// coherent. Elsewhere the same kernel maps them uncached for controllers that are not, which a
/// program cannot ask beforehand, and parsing or sending from uncached memory costs more than the
/// copy that an area saves: there ordinary memory is used.
pub const MAPPINGS_ARE_CACHED: bool = cfg!(any(target_arch = "x86_64", target_arch = "x86"));

/// Largest area, in bytes: contiguous memory of this size is found on a machine that has been up
/// for long, and a large part of all transfers fits.
pub const AREA_BYTES: usize = 1024 * 1024;

/// First area of a device, in bytes: enough for devices that move little, which are most.
const FIRST_AREA_BYTES: usize = 128 * 1024;

/// Areas are whole pages of every page size that Linux has on x86.
const PAGE_BYTES: usize = 4096;

/// After the kernel refused an area this many requests are refused without asking it again.
const REFUSALS: u32 = 1024;

/// Bytes of areas that this process holds, over all devices and threads.
static ALL_MAPPED_BYTES: AtomicUsize = AtomicUsize::new(0);

/// How much may be mapped. Pending URBs are accounted against the same bound of the system, those
/// in areas too, so areas must leave room or no URB is taken any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AreaLimits {
    /// Most bytes of one device.
    pub device_bytes: usize,
    /// Most bytes of all devices of this process.
    pub process_bytes: usize,
}

/// The areas of one open device, for the thread that has its [`Queue`].
#[derive(Debug)]
pub struct Areas {
    node: Handle,
    limits: AreaLimits,
    mapped_bytes: Rc<Cell<usize>>,
    areas: Vec<Rc<Area>>,
    refusals: u32,
}

impl Areas {
    /// No area yet of the queue's device, and never more than `limits` allow.
    #[must_use]
    pub fn new(queue: &Queue, limits: AreaLimits) -> Self {
        let node = queue.handle().clone();
        Self { node, limits, mapped_bytes: Rc::default(), areas: Vec::new(), refusals: 0 }
    }

    /// Takes a block of at least `bytes` bytes, or `None` where only ordinary memory will do: at
    /// the limit, above [`AREA_BYTES`], or when the kernel has no more.
    #[must_use]
    pub fn take(&mut self, bytes: usize) -> Option<DeviceBlock> {
        assert!(bytes > 0, "a block has at least one byte");
        let length = bytes.checked_next_multiple_of(BLOCK_ALIGNMENT)?;
        if let Some(block) = self.areas.iter().find_map(|area| Area::take(area, length)) {
            return Some(block);
        }
        let area = Rc::new(self.map(length)?);
        self.areas.push(Rc::clone(&area));
        Some(Area::take(&area, length).expect("a new area has room for what it was made for"))
    }

    /// Gives areas of which no block is lent back to the system. Called when the device is idle.
    pub fn trim(&mut self) {
        self.areas.retain(|area| area.is_lent());
    }

    /// Bytes of areas held from the system, until their last block is dropped.
    #[must_use]
    pub fn mapped_bytes(&self) -> usize {
        self.mapped_bytes.get()
    }

    fn map(&mut self, length: usize) -> Option<Area> {
        if length > AREA_BYTES {
            return None;
        }
        let own = self.limits.device_bytes.saturating_sub(self.mapped_bytes.get());
        let all = self.limits.process_bytes.saturating_sub(ALL_MAPPED_BYTES.load(Relaxed));
        let room = own.min(all);
        let usual = if self.areas.is_empty() { FIRST_AREA_BYTES } else { AREA_BYTES };
        let bytes = usual.min(room / PAGE_BYTES * PAGE_BYTES).max(length);
        let bytes = bytes.next_multiple_of(PAGE_BYTES);
        if bytes > room {
            return None;
        }
        if self.refusals > 0 {
            self.refusals -= 1;
            return None;
        }
        let area = Area::map(&self.node, bytes, &self.mapped_bytes);
        if area.is_none() {
            self.refusals = REFUSALS;
        }
        area
    }
}

/// A part of a DMA area of one open device. It belongs to nobody else until it is dropped; then it
/// goes back to its area. The area stays mapped while a block of it exists, also after its
/// [`Areas`] and its device are gone.
#[derive(Debug)]
pub struct DeviceBlock {
    area: Rc<Area>,
    offset: usize,
    length: usize,
}

impl DeviceBlock {
    /// Usable bytes.
    #[must_use]
    pub fn len(&self) -> usize {
        self.length
    }

    /// Never true: areas hand out no empty block.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// First byte; 64-byte aligned.
    #[must_use]
    pub fn as_non_null(&self) -> NonNull<u8> {
        // SAFETY: offset + length lies within the area: the range came out of its list of free
        // ranges, which never leaves 0..length of the mapping.
        unsafe { self.area.address.add(self.offset) }
    }
}

impl Drop for DeviceBlock {
    fn drop(&mut self) {
        self.area.free.borrow_mut().give(self.offset, self.length);
    }
}

/// One mapping.
#[derive(Debug)]
struct Area {
    address: NonNull<u8>,
    length: usize,
    free: RefCell<FreeRanges>,
    mapped_bytes: Rc<Cell<usize>>,
}

impl Area {
    fn map(node: &Handle, length: usize, mapped_bytes: &Rc<Cell<usize>>) -> Option<Self> {
        // SAFETY: a new mapping at an address of the kernel's choice touches nothing that exists.
        // The kernel zeroes the memory, so all its bytes are initialised, and keeps it for URBs in
        // flight even if it is unmapped before they end.
        let address = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                length,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                node.as_raw_fd(),
                0,
            )
        };
        if address == libc::MAP_FAILED {
            return None;
        }
        let address = NonNull::new(address.cast::<u8>())?;
        mapped_bytes.set(mapped_bytes.get() + length);
        // Two threads may pass the limit together, by an area each; it has room for that.
        ALL_MAPPED_BYTES.fetch_add(length, Relaxed);
        let mapped_bytes = Rc::clone(mapped_bytes);
        Some(Self { address, length, free: RefCell::new(FreeRanges::new(length)), mapped_bytes })
    }

    fn take(area: &Rc<Self>, length: usize) -> Option<DeviceBlock> {
        let offset = area.free.borrow_mut().take(length)?;
        assert!(offset + length <= area.length, "free ranges lie within their area");
        Some(DeviceBlock { area: Rc::clone(area), offset, length })
    }

    fn is_lent(&self) -> bool {
        self.free.borrow().ranges.as_slice() != [(0, self.length)]
    }
}

impl Drop for Area {
    fn drop(&mut self) {
        assert!(!self.is_lent(), "an area outlives its blocks");
        self.mapped_bytes.set(self.mapped_bytes.get() - self.length);
        ALL_MAPPED_BYTES.fetch_sub(self.length, Relaxed);
        // SAFETY: the mapping is ours alone and every block of it is gone, checked above.
        let result = unsafe { libc::munmap(self.address.as_ptr().cast(), self.length) };
        assert_eq!(result, 0, "an own mapping can be unmapped");
    }
}

/// The free parts of an area: (offset, length) in ascending order, no two adjacent.
#[derive(Debug)]
struct FreeRanges {
    ranges: Vec<(usize, usize)>,
}

impl FreeRanges {
    fn new(length: usize) -> Self {
        // More blocks than this are rarely in use at once, so the list does not grow later.
        const USUAL: usize = 64;
        let mut ranges = Vec::with_capacity(USUAL);
        ranges.push((0, length));
        Self { ranges }
    }

    /// First fit, from the front of a range, so that the same blocks are used again while they are
    /// in the cache.
    fn take(&mut self, length: usize) -> Option<usize> {
        let index = self.ranges.iter().position(|&(_, free)| free >= length)?;
        let (offset, free) = self.ranges[index];
        if free == length {
            self.ranges.remove(index);
        } else {
            self.ranges[index] = (offset + length, free - length);
        }
        Some(offset)
    }

    fn give(&mut self, offset: usize, length: usize) {
        let index = self.ranges.partition_point(|&(start, _)| start < offset);
        let before = index.checked_sub(1).map(|index| self.ranges[index]);
        let after = self.ranges.get(index).copied();
        assert!(before.is_none_or(|(start, free)| start + free <= offset), "given back once");
        assert!(after.is_none_or(|(start, _)| offset + length <= start), "given back once");
        let joins_before = before.is_some_and(|(start, free)| start + free == offset);
        let joins_after = after.is_some_and(|(start, _)| start == offset + length);
        match (joins_before, joins_after) {
            (true, true) => {
                let (_, free) = self.ranges.remove(index);
                self.ranges[index - 1].1 += length + free;
            }
            (true, false) => self.ranges[index - 1].1 += length,
            (false, true) => {
                let (_, free) = self.ranges[index];
                self.ranges[index] = (offset, length + free);
            }
            (false, false) => self.ranges.insert(index, (offset, length)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::linux::usbfs::Lane;
    use std::os::fd::{FromRawFd, OwnedFd};

    /// Areas without a limit for the process, because tests run beside each other.
    fn areas(node: OwnedFd, device_bytes: usize) -> Areas {
        let limits = AreaLimits { device_bytes, process_bytes: usize::MAX };
        Areas::new(&Queue::new(Lane { node }, 1, 8), limits)
    }

    /// A file that can be mapped shared like a node: ordinary memory of the page cache.
    fn node(bytes: usize) -> OwnedFd {
        // SAFETY: the name is a C string; the call returns a new descriptor or fails.
        let raw = unsafe { libc::memfd_create(c"areas".as_ptr(), 0) };
        assert!(raw >= 0, "the system has memory files");
        // SAFETY: the descriptor has just been returned and has no other owner.
        let node = unsafe { OwnedFd::from_raw_fd(raw) };
        let length = libc::off_t::try_from(bytes).expect("small");
        // SAFETY: changes the length of our own file and touches no memory of this process.
        assert_eq!(unsafe { libc::ftruncate(node.as_raw_fd(), length) }, 0);
        node
    }

    #[test]
    fn ranges_join_again_in_every_order() {
        let orders = [[0, 1, 2, 3], [3, 2, 1, 0], [1, 3, 0, 2], [2, 0, 3, 1]];
        for order in orders {
            let mut free = FreeRanges::new(4 * 128);
            let offsets: Vec<_> = (0..4).map(|_| free.take(128).expect("has room")).collect();
            assert_eq!(free.take(64), None);
            for index in order {
                free.give(offsets[index], 128);
            }
            assert_eq!(free.ranges, [(0, 512)]);
        }
    }

    #[test]
    #[should_panic(expected = "given back once")]
    fn a_range_cannot_be_given_back_twice() {
        let mut free = FreeRanges::new(256);
        let offset = free.take(64).expect("has room");
        free.give(offset, 64);
        free.give(offset, 64);
    }

    #[test]
    fn blocks_stay_within_the_limit_and_areas_go_back() {
        let mut areas = areas(node(AREA_BYTES), 2 * AREA_BYTES);
        assert!(areas.take(AREA_BYTES + 1).is_none(), "larger than an area");
        let small = areas.take(700).expect("has room");
        assert_eq!((small.len(), areas.mapped_bytes()), (704, FIRST_AREA_BYTES));
        assert_eq!(small.as_non_null().as_ptr() as usize % BLOCK_ALIGNMENT, 0);
        let large = areas.take(AREA_BYTES).expect("has room");
        assert!(areas.take(AREA_BYTES).is_none(), "at the limit");
        assert!(areas.take(AREA_BYTES / 2).is_some(), "a smaller area still fits");
        areas.trim();
        assert_eq!(areas.mapped_bytes(), FIRST_AREA_BYTES + AREA_BYTES);
        drop(small);
        areas.trim();
        assert_eq!(areas.mapped_bytes(), AREA_BYTES);
        drop(areas);
        assert_eq!(large.len(), AREA_BYTES, "a block outlives its pool");
    }

    #[test]
    fn all_devices_together_have_a_limit() {
        let first = areas(node(AREA_BYTES), AREA_BYTES).take(AREA_BYTES).expect("has room");
        let limits = AreaLimits { device_bytes: AREA_BYTES, process_bytes: first.len() };
        let node = node(AREA_BYTES);
        let mut second = Areas::new(&Queue::new(Lane { node }, 1, 8), limits);
        assert!(second.take(64).is_none(), "the first device has it all");
    }

    #[test]
    fn a_refusal_is_not_asked_again_at_once() {
        // A pipe cannot be mapped, as a node cannot be above the system's bound.
        let (reader, _writer) = std::io::pipe().expect("the system has pipes");
        let mut areas = areas(reader.into(), AREA_BYTES);
        assert!(areas.take(64).is_none());
        assert_eq!(areas.refusals, REFUSALS);
        assert!(areas.take(64).is_none());
        assert_eq!(areas.refusals, REFUSALS - 1);
    }
}
