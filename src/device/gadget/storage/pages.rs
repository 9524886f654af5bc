//! The data by which a disk describes itself: INQUIRY, MODE SENSE, READ CAPACITY, REPORT LUNS.

use super::BLOCK_BYTES;

/// Most bytes of one description.
pub(super) const PAGE_BYTES: usize = 256;

/// Vendor and product identification, padded as INQUIRY wants them.
const VENDOR: &[u8; 8] = b"USBFAST ";
const PRODUCT: &[u8; 16] = b"Simulated disk  ";
const REVISION: &[u8; 4] = b"0001";

/// Length byte of a form; all that is described here is short.
fn short(length: usize) -> u8 {
    u8::try_from(length).expect("descriptions are shorter than 256 bytes")
}

/// Writes descriptions into a buffer that is used again and again.
#[derive(Debug)]
pub(super) struct Page {
    bytes: [u8; PAGE_BYTES],
    length: usize,
}

impl Default for Page {
    fn default() -> Self {
        Self { bytes: [0; PAGE_BYTES], length: 0 }
    }
}

impl Page {
    /// What was written last.
    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes[..self.length]
    }

    /// Any bytes.
    pub(super) fn set(&mut self, bytes: &[u8]) {
        self.length = 0;
        self.add(bytes);
    }

    /// Standard INQUIRY data (SPC-4 §6.6.2): a direct-access device that stays where it is, SPC-4.
    pub(super) fn inquiry(&mut self) {
        self.set(&[0, 0, 6, 2, 31, 0, 0, 0]);
        self.add(VENDOR);
        self.add(PRODUCT);
        self.add(REVISION);
    }

    /// Vital product data (SPC-4 §7.8): which pages, the serial number, the identification.
    pub(super) fn product_data(&mut self, page: u8, serial: &str) {
        self.set(&[0, page, 0, 0]);
        match page {
            0x00 => self.add(&[0x00, 0x80, 0x83]),
            0x80 => self.add(serial.as_bytes()),
            _ => {
                // One designator of the unit: T10 vendor identification, in ASCII.
                let text = VENDOR.len() + PRODUCT.len() + serial.len();
                self.add(&[0x02, 0x01, 0, short(text)]);
                self.add(VENDOR);
                self.add(PRODUCT);
                self.add(serial.as_bytes());
            }
        }
        self.bytes[3] = short(self.length - 4);
    }

    /// Mode parameters (SPC-4 §7.5) without block descriptors: writes may be cached, and FUA says
    /// when not to. All pages there are, or one, is the same: the caching page.
    pub(super) fn mode(&mut self, long: bool, read_only: bool) {
        let specific = 0x10 | if read_only { 0x80 } else { 0 };
        let header = if long { 8 } else { 4 };
        let mut caching = [0; 20];
        caching[..3].copy_from_slice(&[0x08, 18, 0x04]);
        let length = short(header + caching.len());
        if long {
            self.set(&[0, length - 2, 0, specific, 0, 0, 0, 0]);
        } else {
            self.set(&[length - 1, 0, specific, 0]);
        }
        self.add(&caching);
    }

    /// READ CAPACITY (SBC-3 §5.12, §5.13): the last block and the size of one.
    pub(super) fn capacity(&mut self, long: bool, blocks: u64) {
        let last = blocks - 1;
        let size = u32::try_from(BLOCK_BYTES).expect("a block is small").to_be_bytes();
        if long {
            self.set(&last.to_be_bytes());
            self.add(&size);
            self.add(&[0; 20]);
        } else {
            self.set(&u32::try_from(last).unwrap_or(u32::MAX).to_be_bytes());
            self.add(&size);
        }
    }

    /// REPORT LUNS (SPC-4 §6.33): unit 0 alone.
    pub(super) fn units(&mut self) {
        self.set(&[0, 0, 0, 8]);
        self.add(&[0; 12]);
    }

    fn add(&mut self, bytes: &[u8]) {
        self.bytes[self.length..][..bytes.len()].copy_from_slice(bytes);
        self.length += bytes.len();
    }
}
