//! Where the reports of a keyboard or mouse come from.

use std::collections::VecDeque;
use std::marker::PhantomData;
use std::sync::Arc;

use usbip_fast_native::{BellSlot, ByteQueue, Doorbell, feed};

use super::{Kind, Report, Step};
use crate::limits;

/// What a device is told to do. Cloned with its options.
#[derive(Clone, Debug)]
pub(super) enum Source {
    /// Nothing.
    Rest,
    /// This many reports of the device's pattern; `None` without end.
    Pattern(Option<u64>),
    /// The lines of a script that was found to be right.
    Script(Arc<str>),
    /// The lines of standard input.
    Stdin,
}

/// A source, and where in it the session is.
#[derive(Debug)]
pub(super) struct Program<K> {
    source: Source,
    /// Reports of the pattern given, or bytes of the script read.
    at: u64,
    steps: VecDeque<Step>,
    state: K,
    stdin: Option<Lines>,
}

/// Standard input, line by line.
#[derive(Debug)]
struct Lines {
    queue: ByteQueue,
    bell: BellSlot,
    line: Vec<u8>,
}

impl<K: Kind> Program<K> {
    pub(super) fn new(source: Source) -> Self {
        Self { source, at: 0, steps: VecDeque::new(), state: K::default(), stdin: None }
    }

    /// A session begins: the program does too.
    pub(super) fn begin(&mut self, doorbell: &Doorbell) -> Result<(), String> {
        self.at = 0;
        self.steps.clear();
        self.state = K::default();
        if let (Source::Stdin, None) = (&self.source, &self.stdin) {
            let (queue, bell) = (ByteQueue::new(limits::SCRIPT_LINE_BYTES), BellSlot::default());
            feed::read_stdin(queue.clone(), bell.clone()).map_err(|error| error.to_string())?;
            self.stdin = Some(Lines { queue, bell, line: Vec::new() });
        }
        if let Some(lines) = &self.stdin {
            lines.bell.set(doorbell);
        }
        Ok(())
    }

    /// Whether a thread brings it something.
    pub(super) fn is_fed(&self) -> bool {
        self.stdin.is_some()
    }

    /// The next report, once.
    pub(super) fn next(&mut self) -> Option<Report> {
        loop {
            if let Some(step) = self.steps.front_mut() {
                let report = step.report;
                step.times -= 1;
                if step.times == 0 {
                    self.steps.pop_front();
                }
                return Some(report);
            }
            match &self.source {
                Source::Rest => return None,
                Source::Pattern(count) => {
                    let index = self.at;
                    if count.is_some_and(|count| index >= count) {
                        return None;
                    }
                    self.at += 1;
                    return Some(K::pattern(index));
                }
                Source::Script(text) => {
                    let at = usize::try_from(self.at).expect("within the text");
                    let line = text[at..].split_inclusive('\n').next()?;
                    self.at += line.len() as u64;
                    let result = self.state.read_line(line.trim_end(), &mut self.steps);
                    result.expect("the script was tried when it was read");
                }
                Source::Stdin => {
                    let lines = self.stdin.as_mut()?;
                    let line = lines.next()?;
                    if let Err(error) = self.state.read_line(line.trim_end(), &mut self.steps) {
                        tracing::warn!("{}: {line:?}: {error}", K::NAME);
                    }
                }
            }
        }
    }
}

impl Lines {
    /// The next whole line, if it is there.
    fn next(&mut self) -> Option<String> {
        let mut byte = [0];
        while self.queue.read(&mut byte) > 0 {
            if byte[0] == b'\n' {
                let line = String::from_utf8_lossy(&self.line).into_owned();
                self.line.clear();
                return Some(line);
            }
            // The rest of a line that is too long is a line of its own, and most likely wrong.
            if self.line.len() == limits::SCRIPT_LINE_BYTES {
                self.line.clear();
            }
            self.line.push(byte[0]);
        }
        None
    }
}

/// Tries a script.
///
/// # Errors
///
/// The first line that is wrong, by its number, and why.
pub(super) fn check<K: Kind>(text: &str, _: PhantomData<K>) -> Result<(), String> {
    let mut state = K::default();
    let mut steps = VecDeque::new();
    for (number, line) in (1..).zip(text.lines()) {
        steps.clear();
        let result = match line.len() > limits::SCRIPT_LINE_BYTES {
            true => Err(format!("is longer than {} bytes", limits::SCRIPT_LINE_BYTES)),
            false => state.read_line(line.trim_end(), &mut steps),
        };
        result.map_err(|error| format!("line {number}: {error}"))?;
    }
    Ok(())
}

/// The word that begins a line, and the rest of it.
pub(super) fn split_word(line: &str) -> (&str, &str) {
    line.split_once(' ').unwrap_or((line, ""))
}

/// The number of milliseconds that a `wait` names.
pub(super) fn read_wait(text: &str) -> Result<u32, String> {
    let found = text.trim().parse().ok().filter(|ms| (1..=3_600_000).contains(ms));
    found.ok_or_else(|| "wait needs milliseconds, from 1 to 3600000".to_owned())
}
