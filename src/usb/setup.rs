//! The setup packet of a control transfer (USB 2.0 §9.3).

/// The eight bytes that open a control transfer, decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Setup {
    /// Direction (bit 7), type (bits 6..5), recipient (bits 4..0).
    pub request_type: u8,
    /// Which request.
    pub request: u8,
    /// Meaning depends on the request.
    pub value: u16,
    /// Meaning depends on the request: often an interface or endpoint.
    pub index: u16,
    /// Bytes of the data stage.
    pub length: u16,
}

/// `bRequest` of the standard requests (USB 2.0 table 9-4, USB 3.2 table 9-5).
pub mod request {
    /// GET_STATUS
    pub const GET_STATUS: u8 = 0;
    /// CLEAR_FEATURE
    pub const CLEAR_FEATURE: u8 = 1;
    /// SET_FEATURE
    pub const SET_FEATURE: u8 = 3;
    /// SET_ADDRESS
    pub const SET_ADDRESS: u8 = 5;
    /// GET_DESCRIPTOR
    pub const GET_DESCRIPTOR: u8 = 6;
    /// SET_DESCRIPTOR
    pub const SET_DESCRIPTOR: u8 = 7;
    /// GET_CONFIGURATION
    pub const GET_CONFIGURATION: u8 = 8;
    /// SET_CONFIGURATION
    pub const SET_CONFIGURATION: u8 = 9;
    /// GET_INTERFACE
    pub const GET_INTERFACE: u8 = 10;
    /// SET_INTERFACE
    pub const SET_INTERFACE: u8 = 11;
    /// SYNCH_FRAME
    pub const SYNCH_FRAME: u8 = 12;
    /// SET_SEL
    pub const SET_SEL: u8 = 0x30;
    /// SET_ISOCH_DELAY
    pub const SET_ISOCH_DELAY: u8 = 0x31;
}

/// What a request means to whoever must keep track of a device's state (kernel.md §2.4, §3.8).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StandardRequest {
    /// SET_ADDRESS: never reaches a device over USB/IP.
    SetAddress,
    /// SET_CONFIGURATION with the value.
    SetConfiguration(u8),
    /// SET_INTERFACE.
    SetInterface {
        /// Interface number.
        interface: u8,
        /// Alternate setting.
        alternate: u8,
    },
    /// CLEAR_FEATURE(ENDPOINT_HALT) on an endpoint address other than 0.
    ClearHalt(u8),
    /// SET_FEATURE(PORT_RESET) addressed to a hub's port: reset the device.
    PortReset,
    /// Everything else goes to the device as it is.
    Other,
}

impl Setup {
    /// Decodes the eight bytes as they stand on the bus (little-endian).
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 8]) -> Self {
        Self {
            request_type: bytes[0],
            request: bytes[1],
            value: u16::from_le_bytes([bytes[2], bytes[3]]),
            index: u16::from_le_bytes([bytes[4], bytes[5]]),
            length: u16::from_le_bytes([bytes[6], bytes[7]]),
        }
    }

    /// The eight bytes as they stand on the bus.
    #[must_use]
    pub const fn to_bytes(self) -> [u8; 8] {
        let value = self.value.to_le_bytes();
        let index = self.index.to_le_bytes();
        let length = self.length.to_le_bytes();
        [
            self.request_type,
            self.request,
            value[0],
            value[1],
            index[0],
            index[1],
            length[0],
            length[1],
        ]
    }

    /// Whether the data stage, if any, goes from device to host.
    #[must_use]
    pub const fn is_in(self) -> bool {
        self.request_type & 0x80 != 0
    }

    /// Sorts out the requests that change what the host must know of the device.
    #[must_use]
    pub const fn classify(self) -> StandardRequest {
        match (self.request_type, self.request) {
            (0x00, request::SET_ADDRESS) => StandardRequest::SetAddress,
            (0x00, request::SET_CONFIGURATION) => {
                StandardRequest::SetConfiguration(self.value.to_le_bytes()[0])
            }
            (0x01, request::SET_INTERFACE) => StandardRequest::SetInterface {
                interface: self.index.to_le_bytes()[0],
                alternate: self.value.to_le_bytes()[0],
            },
            (0x02, request::CLEAR_FEATURE) if self.value == 0 && self.index & 0x0f != 0 => {
                StandardRequest::ClearHalt(self.index.to_le_bytes()[0])
            }
            (0x23, request::SET_FEATURE) if self.value == 4 => StandardRequest::PortReset,
            _ => StandardRequest::Other,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_round_trip_and_are_little_endian() {
        let setup =
            Setup { request_type: 0x80, request: 6, value: 0x0200, index: 0x0409, length: 255 };
        let bytes = setup.to_bytes();
        assert_eq!(bytes, [0x80, 6, 0, 2, 9, 4, 255, 0]);
        assert_eq!(Setup::from_bytes(bytes), setup);
    }

    #[test]
    fn requests_that_change_state_are_recognised() {
        let classify = |request_type, request, value, index| {
            Setup { request_type, request, value, index, length: 0 }.classify()
        };
        assert_eq!(classify(0, 5, 3, 0), StandardRequest::SetAddress);
        assert_eq!(classify(0, 9, 1, 0), StandardRequest::SetConfiguration(1));
        assert_eq!(
            classify(1, 11, 2, 3),
            StandardRequest::SetInterface { interface: 3, alternate: 2 }
        );
        assert_eq!(classify(2, 1, 0, 0x81), StandardRequest::ClearHalt(0x81));
        assert_eq!(classify(2, 1, 0, 0x80), StandardRequest::Other);
        assert_eq!(classify(0x23, 3, 4, 1), StandardRequest::PortReset);
        assert_eq!(classify(0x21, 9, 1, 0), StandardRequest::Other);
    }
}
