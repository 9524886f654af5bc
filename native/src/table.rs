//! The table of operations in flight that every backend keeps: token to entry, and entry to
//! whatever the backend has to remember.
//!
//! Memory grows while a reactor warms up and is then reused: neither inserting nor removing
//! allocates below the highest number of operations seen so far.

use crate::op::Token;

/// Operations in flight, each under an index that stays the same until it is removed.
#[derive(Debug)]
pub(crate) struct OpTable<T> {
    entries: Vec<Option<(Token, T)>>,
    free: Vec<u32>,
    tokens: TokenMap,
}

impl<T> OpTable<T> {
    /// An empty table with room for `capacity` operations.
    pub(crate) fn new(capacity: usize) -> Self {
        let mut tokens = TokenMap::default();
        tokens.reserve(capacity);
        Self { entries: Vec::with_capacity(capacity), free: Vec::with_capacity(capacity), tokens }
    }

    /// Enters an operation. The token must be of a caller's kind and not in flight: both are
    /// promises of whoever submits.
    pub(crate) fn insert(&mut self, token: Token, content: T) -> u32 {
        assert_ne!(token.kind(), Token::RESERVED_KIND, "kind 0xff belongs to the reactor");
        let index = match self.free.pop() {
            Some(index) => index,
            None => {
                let index = u32::try_from(self.entries.len()).expect("below 2^32 operations");
                self.entries.push(None);
                // Room for every index, so that removing never allocates.
                self.free.reserve(self.entries.len() - self.free.len());
                index
            }
        };
        self.tokens.insert(token.to_bits(), index);
        let entry = &mut self.entries[index as usize];
        assert!(entry.is_none(), "a free entry is empty");
        *entry = Some((token, content));
        index
    }

    /// Takes an operation out; its index may be used again at once.
    pub(crate) fn remove(&mut self, index: u32) -> (Token, T) {
        let entry = &mut self.entries[index as usize];
        let content = entry.take().expect("only an operation in flight is removed");
        let found = self.tokens.remove(content.0.to_bits());
        assert_eq!(found, Some(index), "token and entry name each other");
        self.free.push(index);
        content
    }

    /// The index of a token in flight.
    pub(crate) fn find(&self, token: Token) -> Option<u32> {
        self.tokens.get(token.to_bits())
    }

    /// The operation of an index, if there is one in flight.
    pub(crate) fn try_get(&self, index: u32) -> Option<&T> {
        let content = self.entries.get(index as usize)?.as_ref();
        content.map(|(_, content)| content)
    }

    /// An operation in flight.
    pub(crate) fn get(&self, index: u32) -> &T {
        self.try_get(index).expect("the index is of an operation in flight")
    }

    /// An operation in flight.
    pub(crate) fn get_mut(&mut self, index: u32) -> &mut T {
        let content = self.entries[index as usize].as_mut();
        &mut content.expect("the index is of an operation in flight").1
    }
}

/// Token bits to index: open addressing with linear probing, at most half full.
///
/// Removal moves later entries up instead of leaving tombstones, so that a long run of inserts and
/// removals never forces a rehash, which would allocate.
#[derive(Debug, Default)]
struct TokenMap {
    places: Vec<Option<(u64, u32)>>,
    used: usize,
}

impl TokenMap {
    fn reserve(&mut self, count: usize) {
        let wanted = (count * 2).next_power_of_two().max(16);
        if wanted <= self.places.len() {
            return;
        }
        let old = std::mem::replace(&mut self.places, vec![None; wanted]);
        self.used = 0;
        for (key, index) in old.into_iter().flatten() {
            self.insert(key, index);
        }
    }

    fn home(&self, key: u64) -> usize {
        // Fibonacci hashing: the product's high bits depend on all bits of the key.
        let mixed = key.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        (mixed >> 32) as usize & (self.places.len() - 1)
    }

    fn next(&self, place: usize) -> usize {
        (place + 1) & (self.places.len() - 1)
    }

    /// The place of the key, or the empty one where it belongs.
    fn place(&self, key: u64) -> usize {
        let mut place = self.home(key);
        while self.places[place].is_some_and(|(other, _)| other != key) {
            place = self.next(place);
        }
        place
    }

    fn insert(&mut self, key: u64, index: u32) {
        self.reserve(self.used + 1);
        let place = self.place(key);
        assert!(self.places[place].is_none(), "a token in flight is not submitted again");
        self.places[place] = Some((key, index));
        self.used += 1;
    }

    fn get(&self, key: u64) -> Option<u32> {
        if self.places.is_empty() {
            return None;
        }
        self.places[self.place(key)].map(|(_, index)| index)
    }

    fn remove(&mut self, key: u64) -> Option<u32> {
        let mut hole = self.place(key);
        let (_, index) = self.places[hole].take()?;
        self.used -= 1;
        let mut place = self.next(hole);
        while let Some((other, _)) = self.places[place] {
            // An entry may move up unless that would put it before its home.
            let mask = self.places.len() - 1;
            let distance = |from: usize| place.wrapping_sub(from) & mask;
            if distance(self.home(other)) >= distance(hole) {
                self.places[hole] = self.places[place].take();
                hole = place;
            }
            place = self.next(place);
        }
        Some(index)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    #[test]
    fn map_agrees_with_the_standard_one_through_churn() {
        let mut map = TokenMap::default();
        let mut model = HashMap::new();
        let mut state = 1u64;
        for round in 0..100_000u32 {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_041);
            // Few distinct keys with equal low bits: long probe chains and frequent removal.
            let key = (state >> 40) % 300 * 0x1_0000_0000;
            match model.remove(&key) {
                Some(index) => assert_eq!(map.remove(key), Some(index)),
                None => {
                    map.insert(key, round);
                    model.insert(key, round);
                }
            }
            assert_eq!(map.get(key), model.get(&key).copied());
        }
        assert!(model.iter().all(|(&key, &index)| map.get(key) == Some(index)));
    }

    #[test]
    fn indices_are_reused_and_tokens_found() {
        let mut table = OpTable::new(1);
        let token = Token::new(1, 0, 7);
        let first = table.insert(token, 'a');
        assert_eq!(table.find(token), Some(first));
        assert_eq!(table.remove(first), (token, 'a'));
        assert_eq!((table.find(token), table.try_get(first)), (None, None));
        let second = table.insert(token, 'b');
        assert_eq!((second, *table.get(second)), (first, 'b'));
        assert_eq!(table.try_get(second + 1), None);
    }

    #[test]
    #[should_panic(expected = "not submitted again")]
    fn a_token_in_flight_is_refused() {
        let mut table = OpTable::new(1);
        table.insert(Token::new(1, 2, 3), ());
        table.insert(Token::new(1, 2, 3), ());
    }
}
