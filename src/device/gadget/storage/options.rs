//! The options of a simulated disk: `key=value` joined by colons.

use std::path::Path;
use std::sync::Arc;

use usbip_fast_native::disk::DiskFile;

use super::super::options::{OptionError, bad, pace, pairs};
use super::super::pace::Pace;
use super::BLOCK_BYTES;
use super::file::FileMedium;
use super::medium::{Medium, RamMedium};
use crate::limits;
use crate::usb::speed::Speed;

/// How a disk is made. [`StorageOptions::default`] is one of 16 MiB in memory, at high speed.
#[derive(Clone, Debug)]
pub struct StorageOptions {
    /// `pace=real|demand|none|FACTOR`; see [`Pace`].
    pub pace: Pace,
    /// `speed=high|super`.
    pub speed: Speed,
    /// `readonly`, `ro=1`.
    pub read_only: bool,
    /// `size=`: bytes of a disk in memory or of a file that has to be made.
    bytes: u64,
    /// `file=`, opened.
    file: Option<Arc<DiskFile>>,
    /// `serial=`.
    serial: Option<String>,
}

const KEYS: &str = "file=PATH, size=BYTES[K|M|G], readonly, ro=0|1, speed=high|super, \
    serial=HEX, pace=real|demand|none|FACTOR";

impl Default for StorageOptions {
    fn default() -> Self {
        Self {
            pace: Pace::REAL,
            speed: Speed::High,
            read_only: false,
            bytes: 16 << 20,
            file: None,
            serial: None,
        }
    }
}

impl StorageOptions {
    /// Reads `key=value:key=value`; the empty text is the default device. Opens the file, and
    /// makes it if it is not there and `size=` says how large it is to be.
    ///
    /// # Errors
    ///
    /// Names the key or value that is wrong, and what it must be; what the system says of the file.
    pub fn parse(text: &str) -> Result<Self, OptionError> {
        let mut options = Self::default();
        let (mut path, mut size) = (None, None);
        for part in text.split(':') {
            if part == "readonly" {
                options.read_only = true;
                continue;
            }
            for pair in pairs(part) {
                match pair? {
                    ("file", value) => path = Some(value.to_owned()),
                    (key @ "size", value) => size = Some(read_size(key, value)?),
                    (key, value) => options.set(key, value)?,
                }
            }
        }
        match path {
            Some(path) => options.open(&path, size)?,
            None => options.bytes = memory_size(size.unwrap_or(options.bytes))?,
        }
        Ok(options)
    }

    fn set(&mut self, key: &str, value: &str) -> Result<(), OptionError> {
        match key {
            "pace" => self.pace = pace(value)?,
            "ro" | "readonly" => {
                self.read_only = match value {
                    "0" => false,
                    "1" => true,
                    _ => return Err(bad(key, value, "must be 0 or 1")),
                }
            }
            "speed" => {
                self.speed = match value {
                    "high" => Speed::High,
                    "super" => Speed::Super,
                    _ => return Err(bad(key, value, "must be high or super")),
                }
            }
            "serial" => {
                // §4.1.1: at least twelve digits, in capitals.
                let is_digit = |byte: u8| byte.is_ascii_digit() || (b'A'..=b'F').contains(&byte);
                if !(12..=126).contains(&value.len()) || !value.bytes().all(is_digit) {
                    return Err(bad(key, value, "must be 12 to 126 of the digits 0-9 and A-F"));
                }
                self.serial = Some(value.to_owned());
            }
            _ => return Err(OptionError::unknown(key, "storage", KEYS)),
        }
        Ok(())
    }

    fn open(&mut self, path: &str, size: Option<u64>) -> Result<(), OptionError> {
        let refuse = |rule: String| bad("file", path, rule);
        let create = size.filter(|_| !self.read_only);
        let file = DiskFile::open(Path::new(path), self.read_only, create).map_err(|error| {
            let advice = if size.is_none() { "; add size=64M to make it" } else { "" };
            let missing = error.0 == crate::usb::errno::ENOENT;
            refuse(format!("cannot be opened: {error}{}", if missing { advice } else { "" }))
        })?;
        self.bytes = file.bytes() / BLOCK_BYTES * BLOCK_BYTES;
        if self.bytes == 0 {
            return Err(refuse(format!("must have at least {BLOCK_BYTES} bytes")));
        }
        if let Some(size) = size.filter(|&size| size != file.bytes()) {
            let found = file.bytes();
            return Err(refuse(format!("has {found} bytes, not {size}; leave size= out")));
        }
        self.file = Some(Arc::new(file));
        Ok(())
    }

    /// The medium of these options.
    pub(super) fn medium(&self) -> Medium {
        match &self.file {
            Some(file) => Medium::File(FileMedium::new(Arc::clone(file))),
            None => Medium::Ram(RamMedium::new(self.bytes)),
        }
    }

    /// The serial number of device `number`: hosts tell disks from each other by it.
    pub(super) fn serial(&self, number: u8) -> String {
        self.serial.clone().unwrap_or_else(|| format!("{number:012X}"))
    }
}

/// A number of bytes, with a binary suffix or without: whole blocks.
fn read_size(key: &str, value: &str) -> Result<u64, OptionError> {
    let (digits, shift) = match value.as_bytes().last() {
        Some(b'K' | b'k') => (&value[..value.len() - 1], 10),
        Some(b'M' | b'm') => (&value[..value.len() - 1], 20),
        Some(b'G' | b'g') => (&value[..value.len() - 1], 30),
        _ => (value, 0),
    };
    let size = digits.parse().ok().and_then(|count: u64| count.checked_mul(1 << shift));
    let size = size.filter(|&size| size > 0 && size % BLOCK_BYTES == 0 && size < 1 << 62);
    size.ok_or_else(|| bad(key, value, "must be a multiple of 512 bytes, such as 64M"))
}

fn memory_size(bytes: u64) -> Result<u64, OptionError> {
    if bytes <= limits::RAM_DISK_BYTES {
        return Ok(bytes);
    }
    let most = limits::RAM_DISK_BYTES >> 20;
    Err(bad("size", &bytes.to_string(), format!("at most {most}M in memory; name a file=PATH")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_suffixes() {
        for (text, bytes) in [("512", 512), ("8K", 8192), ("1M", 1 << 20), ("2g", 2 << 30)] {
            assert_eq!(read_size("size", text), Ok(bytes));
        }
        for text in ["", "0", "M", "513", "-1", "99999999999G", "1.5M"] {
            let error = read_size("size", text).expect_err(text).to_string();
            assert!(error.contains("multiple of 512"), "{error}");
        }
    }

    #[test]
    fn errors_name_the_key_and_the_rule() {
        let error = |text: &str| StorageOptions::parse(text).expect_err(text).to_string();
        assert!(error("colour=red").contains("file=PATH"), "the keys are listed");
        assert_eq!(error("speed=full"), "speed=full: must be high or super");
        assert_eq!(error("ro=yes"), "ro=yes: must be 0 or 1");
        assert!(error("serial=12").contains("12 to 126"));
        assert!(error("serial=abcdefabcdef").contains("A-F"));
        assert!(error("size=64G").contains("file=PATH"));
        assert!(error("file=/nowhere/disk.img").contains("add size=64M"));
        assert!(error("file=/nowhere/disk.img:size=1M").contains("cannot be opened"));
        assert!(error("pace=quick").contains("factor"));
        assert!(error("writable").contains("key=value"));
    }

    #[test]
    fn a_disk_is_in_memory_unless_a_file_is_named() {
        let options = StorageOptions::parse("size=1M:readonly:speed=super").expect("fine");
        assert!(options.read_only && options.speed == Speed::Super);
        assert_eq!(options.medium().bytes(), 1 << 20);
        assert_eq!(options.serial(3), "000000000003");
        assert_eq!(StorageOptions::parse("").expect("empty").medium().bytes(), 16 << 20);
    }

    #[test]
    fn a_file_is_made_once_and_keeps_its_size() {
        let path = std::env::temp_dir().join(format!("usbip-fast-options-{}", std::process::id()));
        let text = format!("file={}", path.display());
        let made = StorageOptions::parse(&format!("{text}:size=64K")).expect("made");
        assert_eq!(made.medium().bytes(), 64 << 10);
        let again = StorageOptions::parse(&format!("{text}:ro=1")).expect("it is there");
        assert_eq!(again.medium().bytes(), 64 << 10);
        let error = StorageOptions::parse(&format!("{text}:size=1M")).expect_err("another size");
        assert!(error.to_string().contains("has 65536 bytes, not 1048576"), "{error}");
        #[expect(clippy::disallowed_methods, reason = "tidies up behind a test")]
        std::fs::remove_file(&path).expect("it was made");
    }
}
