//! Bytes from a client of the admin socket, cut into lines.

use crate::limits;

/// What has come and is not dealt with yet.
#[derive(Debug, Default)]
pub(super) struct Lines {
    bytes: Vec<u8>,
    /// The end of a line that was too long is still to come.
    skipping: bool,
}

/// One line.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Line {
    /// Without its end.
    Whole(Vec<u8>),
    /// Longer than [`limits::ADMIN_LINE_BYTES`]; nothing of it is kept.
    TooLong,
}

impl Lines {
    /// Adds what has come.
    pub fn push(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// The next line, if it is here. Call until `None`, so that no more is held than one line and
    /// one receive.
    pub fn next(&mut self) -> Option<Line> {
        loop {
            let end = self.bytes.iter().position(|&byte| byte == b'\n');
            let length = end.unwrap_or(self.bytes.len());
            if self.skipping {
                self.bytes.drain(..end.map_or(length, |end| end + 1));
                self.skipping = end.is_none();
                end?;
                continue;
            }
            if length > limits::ADMIN_LINE_BYTES {
                self.skipping = true;
                return Some(Line::TooLong);
            }
            let end = end?;
            let mut line: Vec<u8> = self.bytes.drain(..=end).collect();
            line.pop();
            if line.last() == Some(&b'\r') {
                line.pop();
            }
            if !line.is_empty() {
                return Some(Line::Whole(line));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn whole(text: &str) -> Option<Line> {
        Some(Line::Whole(text.into()))
    }

    #[test]
    fn lines_come_whole_however_they_are_cut() {
        let text = b"one\r\n\ntwo\nthree\n";
        for cut in 0..text.len() {
            let mut lines = Lines::default();
            let mut found = Vec::new();
            for part in [&text[..cut], &text[cut..]] {
                lines.push(part);
                found.extend(std::iter::from_fn(|| lines.next()));
            }
            assert_eq!(
                found.into_iter().map(Some).collect::<Vec<_>>(),
                [whole("one"), whole("two"), whole("three")]
            );
        }
    }

    #[test]
    fn a_line_too_long_is_told_once_and_forgotten() {
        let mut lines = Lines::default();
        lines.push(&[b'x'; limits::ADMIN_LINE_BYTES]);
        assert_eq!(lines.next(), None, "it may end here");
        lines.push(b"x");
        assert_eq!(lines.next(), Some(Line::TooLong));
        assert_eq!(lines.next(), None);
        for _ in 0..100 {
            lines.push(&[b'x'; 4096]);
            assert_eq!(lines.next(), None);
            assert!(lines.bytes.is_empty(), "nothing of it is kept");
        }
        lines.push(b"its end\nnext\n");
        assert_eq!(lines.next(), whole("next"));
    }
}
