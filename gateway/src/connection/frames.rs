//! Follows what a tunnel sends to its client, frame by frame (RFC 6455, section 5.2), and changes nothing of it: a close frame of
//! the gateway's own may only stand between two frames.

/// A close frame with status 1008, *policy violation* (RFC 6455, section 7.4.1).
pub(super) const CLOSE_1008: [u8; 4] = [0x88, 0x02, 0x03, 0xf0];

const HEAD_END: &[u8; 4] = b"\r\n\r\n";

/// See the [module](self).
#[derive(Debug)]
pub(super) struct FrameFollower(State);

#[derive(Debug, Clone, Copy)]
enum State {
    /// In the head of the answer 101; so many bytes of its end have been seen.
    Head(usize),
    /// Between two frames.
    Between,
    /// The first byte of a frame has passed.
    First { opcode: u8 },
    /// So many bytes of the length are to come, then the mask.
    Length {
        opcode: u8,
        left: u8,
        mask: u64,
        length: u64,
    },
    /// So many bytes of the frame are to come.
    Rest { opcode: u8, left: u64 },
    /// The upstream has said goodbye itself: no frame may follow.
    Closed,
}

impl Default for FrameFollower {
    fn default() -> Self {
        Self(State::Head(0))
    }
}

impl FrameFollower {
    /// Whether a frame may stand here.
    pub(super) fn is_between(&self) -> bool {
        matches!(self.0, State::Between)
    }

    /// These bytes have passed.
    pub(super) fn follow(&mut self, mut bytes: &[u8]) {
        while let Some((first, rest)) = bytes.split_first() {
            if let State::Rest { opcode, left } = self.0 {
                let passed = left.min(bytes.len() as u64);
                // At most the length of `bytes`.
                bytes = bytes
                    .get(usize::try_from(passed).unwrap_or(usize::MAX)..)
                    .unwrap_or_default();
                self.0 = State::rest(opcode, left - passed);
            } else {
                self.0 = self.0.after(*first);
                bytes = rest;
            }
        }
    }
}

impl State {
    fn after(self, byte: u8) -> Self {
        match self {
            Self::Head(seen) if HEAD_END.get(seen) == Some(&byte) => {
                if seen + 1 == HEAD_END.len() {
                    Self::Between
                } else {
                    Self::Head(seen + 1)
                }
            }
            Self::Head(_) => Self::Head(usize::from(byte == b'\r')),
            Self::Between => Self::First {
                opcode: byte & 0x0f,
            },
            Self::First { opcode } => {
                let mask = if byte & 0x80 == 0 { 0 } else { 4 };
                match byte & 0x7f {
                    126 => Self::Length {
                        opcode,
                        left: 2,
                        mask,
                        length: 0,
                    },
                    127 => Self::Length {
                        opcode,
                        left: 8,
                        mask,
                        length: 0,
                    },
                    short => Self::rest(opcode, mask + u64::from(short)),
                }
            }
            Self::Length {
                opcode,
                left,
                mask,
                length,
            } => {
                let length = (length << 8) | u64::from(byte);
                if left > 1 {
                    Self::Length {
                        opcode,
                        left: left - 1,
                        mask,
                        length,
                    }
                } else {
                    Self::rest(opcode, length.saturating_add(mask))
                }
            }
            // Bytes of the rest are taken many at a time.
            Self::Rest { opcode, left } => Self::rest(opcode, left.saturating_sub(1)),
            Self::Closed => Self::Closed,
        }
    }

    fn rest(opcode: u8, left: u64) -> Self {
        const CLOSE: u8 = 8;
        match (left, opcode) {
            (0, CLOSE) => Self::Closed,
            (0, _) => Self::Between,
            (left, opcode) => Self::Rest { opcode, left },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &[u8] = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n";

    /// Where frames may stand, counted in bytes behind the head, however the bytes are cut.
    fn between(frames: &[u8]) -> Vec<usize> {
        let mut by_byte = FrameFollower::default();
        by_byte.follow(HEAD);
        let mut found = Vec::new();
        for at in 0..=frames.len() {
            let mut at_once = FrameFollower::default();
            at_once.follow(&[HEAD, &frames[..at]].concat());
            assert_eq!(at_once.is_between(), by_byte.is_between(), "{at}");
            if by_byte.is_between() {
                found.push(at);
            }
            by_byte.follow(frames.get(at..=at).unwrap_or_default());
        }
        found
    }

    #[test]
    fn only_between_two_frames() {
        assert_eq!(between(b"\x81\x02hi\x89\x00\x81\x01x"), [0, 4, 6, 9]);
        let long = [b"\x82\x7e\x01\x00".as_slice(), &[7; 256], b"\x8a\x00"].concat();
        assert_eq!(between(&long), [0, 260, 262]);
        let longest = [b"\x82\x7f\0\0\0\0\0\0\0\x03".as_slice(), b"abc"].concat();
        assert_eq!(between(&longest), [0, 13]);
        assert_eq!(between(b"\x81\x82mask12"), [0, 8]);
    }

    #[test]
    fn never_behind_a_goodbye() {
        assert_eq!(between(b"\x88\x02\x03\xe8\x81\x00"), [0]);
        assert_eq!(between(&CLOSE_1008), [0]);
    }

    #[test]
    fn not_in_the_head_of_the_answer() {
        let mut follower = FrameFollower::default();
        follower.follow(&HEAD[..HEAD.len() - 1]);
        assert!(!follower.is_between());
        follower.follow(b"\n");
        assert!(follower.is_between());
        let mut odd = FrameFollower::default();
        odd.follow(b"HTTP/1.1 101 x\r\nA: b\r\r\n\r\n");
        assert!(odd.is_between());
    }
}
