//! Finds a URB by its sequence number.

/// Seqnum to slot: open addressing with linear probing, at most half full.
#[derive(Debug, Default)]
pub struct SeqnumIndex {
    cells: Vec<Option<(u32, u32)>>,
    len: usize,
}

impl SeqnumIndex {
    /// Seqnums in the index.
    pub const fn len(&self) -> usize {
        self.len
    }

    /// The slot of a seqnum.
    pub fn find(&self, seqnum: u32) -> Option<u32> {
        if self.cells.is_empty() {
            return None;
        }
        let mut at = self.home(seqnum);
        while let Some((key, slot)) = self.cells[at] {
            if key == seqnum {
                return Some(slot);
            }
            at = self.after(at);
        }
        None
    }

    /// Enters a seqnum that is not there.
    pub fn insert(&mut self, seqnum: u32, slot: u32) {
        if (self.len + 1) * 2 > self.cells.len() {
            self.grow();
        }
        let mut at = self.home(seqnum);
        while self.cells[at].is_some() {
            at = self.after(at);
        }
        self.cells[at] = Some((seqnum, slot));
        self.len += 1;
    }

    /// Takes out a seqnum that is there.
    pub fn remove(&mut self, seqnum: u32) {
        let mut hole = self.home(seqnum);
        while self.cells[hole].is_some_and(|(key, _)| key != seqnum) {
            hole = self.after(hole);
        }
        assert!(self.cells[hole].is_some(), "only known seqnums are removed");
        // Close the gap: later cells of the run move up if their home lies at or before the hole.
        let mut at = self.after(hole);
        while let Some((key, _)) = self.cells[at] {
            let home = self.home(key);
            if self.distance(home, at) >= self.distance(hole, at) {
                self.cells[hole] = self.cells[at];
                hole = at;
            }
            at = self.after(at);
        }
        self.cells[hole] = None;
        self.len -= 1;
    }

    fn grow(&mut self) {
        let size = (self.cells.len() * 2).max(64);
        let old = std::mem::replace(&mut self.cells, vec![None; size]);
        self.len = 0;
        for (seqnum, slot) in old.into_iter().flatten() {
            self.insert(seqnum, slot);
        }
    }

    fn home(&self, seqnum: u32) -> usize {
        // Seqnums count up. Multiplied by 2^32 over the golden ratio they lie far from each other,
        // so that taking one out does not have to look at all the others.
        let spread = u64::from(seqnum.wrapping_mul(0x9e37_79b1));
        ((spread * self.cells.len() as u64) >> 32) as usize
    }

    fn after(&self, at: usize) -> usize {
        (at + 1) & (self.cells.len() - 1)
    }

    fn distance(&self, from: usize, to: usize) -> usize {
        to.wrapping_sub(from) & (self.cells.len() - 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashMap;

    /// Keys of which all have one home, or two, so that runs of collisions appear: the factor
    /// undoes the spreading.
    fn colliding(number: u32) -> u32 {
        let half = if number.is_multiple_of(3) { 1 << 31 } else { 0 };
        (number + half).wrapping_mul(0x0e8b_2f51)
    }

    proptest! {
        #[test]
        fn index_agrees_with_a_map(
            steps in prop::collection::vec((any::<bool>(), 0_u32..300), 0..2000),
        ) {
            let mut index = SeqnumIndex::default();
            let mut model = HashMap::new();
            for (number, (insert, key)) in steps.into_iter().enumerate() {
                let key = colliding(key);
                let slot = number as u32;
                if insert {
                    if model.insert(key, slot).is_none() {
                        index.insert(key, slot);
                    } else {
                        index.remove(key);
                        index.insert(key, slot);
                    }
                } else if model.remove(&key).is_some() {
                    index.remove(key);
                }
                prop_assert_eq!(index.len, model.len());
            }
            for key in (0..300).map(colliding) {
                prop_assert_eq!(index.find(key), model.get(&key).copied());
            }
        }
    }
}
