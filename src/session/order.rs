//! Which URBs of an endpoint came first: answers leave in the order of submission per endpoint.

use std::collections::VecDeque;

use crate::usb::transfer::Direction;

/// One queue of slots per endpoint address; endpoint 0 has one for both directions.
#[derive(Debug)]
pub struct EndpointOrder {
    queues: [VecDeque<u32>; ENDPOINTS],
}

/// Endpoint numbers 0 to 15 in two directions.
const ENDPOINTS: usize = 32;

impl EndpointOrder {
    pub fn new() -> Self {
        Self { queues: std::array::from_fn(|_| VecDeque::new()) }
    }

    /// Notes a submission as the endpoint's youngest.
    pub fn push(&mut self, endpoint: u8, direction: Direction, slot: u32) {
        self.queues[index(endpoint, direction)].push_back(slot);
    }

    /// The endpoint's oldest submission that is not answered yet.
    pub fn front(&self, endpoint: u8, direction: Direction) -> Option<u32> {
        self.queues[index(endpoint, direction)].front().copied()
    }

    /// Whether a submission waits for older ones of its endpoint.
    pub fn contains(&self, endpoint: u8, direction: Direction, slot: u32) -> bool {
        self.queues[index(endpoint, direction)].contains(&slot)
    }

    /// Submissions that are not answered yet, over all endpoints.
    pub fn count(&self) -> usize {
        self.queues.iter().map(VecDeque::len).sum()
    }

    /// Forgets a submission, wherever in its queue it stands.
    pub fn remove(&mut self, endpoint: u8, direction: Direction, slot: u32) {
        let queue = &mut self.queues[index(endpoint, direction)];
        // The oldest is the one that leaves, except when one is unlinked.
        let at = queue.iter().position(|&other| other == slot).expect("every URB stands in order");
        queue.remove(at);
    }
}

fn index(endpoint: u8, direction: Direction) -> usize {
    let number = usize::from(endpoint & 0x0f);
    match direction {
        Direction::In if number != 0 => 16 + number,
        Direction::In | Direction::Out => number,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoint_zero_has_one_order_for_both_directions() {
        let mut order = EndpointOrder::new();
        order.push(0, Direction::Out, 1);
        order.push(0, Direction::In, 2);
        order.push(1, Direction::In, 3);
        order.push(1, Direction::Out, 4);
        assert_eq!(order.front(0, Direction::In), Some(1));
        assert_eq!(order.front(1, Direction::In), Some(3));
        assert_eq!(order.front(1, Direction::Out), Some(4));
        order.remove(0, Direction::Out, 1);
        assert_eq!(order.front(0, Direction::Out), Some(2));
    }
}
