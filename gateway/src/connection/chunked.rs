//! Follows the chunked framing of a request's body as it passes, strictly (RFC 9112, section 7.1):
//! sizes of 1 to 8 hex digits, no extensions, no trailers, CRLF everywhere. The bytes pass unchanged;
//! what deviates stops the body.

/// Where in the framing the next byte belongs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum At {
    /// In a size line, after so many digits.
    Size {
        value: u64,
        digits: u8,
    },
    /// The LF that ends a size line.
    SizeLf {
        value: u64,
    },
    /// In data.
    Data {
        left: u64,
    },
    /// The CR, then the LF after data.
    DataCr,
    DataLf,
    /// The CR, then the LF after the last chunk: no trailers.
    EndCr,
    EndLf,
    Done,
}

/// Follows one body.
#[derive(Debug, PartialEq, Eq)]
pub struct ChunkFollower(At);

/// The framing deviates.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Deviation;

impl Default for ChunkFollower {
    fn default() -> Self {
        Self(At::Size {
            value: 0,
            digits: 0,
        })
    }
}

impl ChunkFollower {
    /// Whether the body has ended.
    pub fn is_done(&self) -> bool {
        self.0 == At::Done
    }

    /// Follows `bytes` to the body's end at most, and returns how many of them belong to it.
    pub fn follow(&mut self, bytes: &[u8]) -> Result<usize, Deviation> {
        let mut i = 0;
        while i < bytes.len() {
            let b = bytes[i];
            self.0 = match self.0 {
                At::Size { value, digits } => match (char::from(b).to_digit(16), b) {
                    (Some(digit), _) if digits < 8 => At::Size {
                        value: value << 4 | u64::from(digit),
                        digits: digits + 1,
                    },
                    (None, b'\r') if digits > 0 => At::SizeLf { value },
                    _ => return Err(Deviation),
                },
                At::SizeLf { value } if b == b'\n' => match value {
                    0 => At::EndCr,
                    left => At::Data { left },
                },
                At::Data { left } => {
                    let here = usize::try_from(left)
                        .unwrap_or(usize::MAX)
                        .min(bytes.len() - i);
                    i += here;
                    let left = left - here as u64;
                    self.0 = if left == 0 {
                        At::DataCr
                    } else {
                        At::Data { left }
                    };
                    continue;
                }
                At::DataCr if b == b'\r' => At::DataLf,
                At::DataLf if b == b'\n' => At::Size {
                    value: 0,
                    digits: 0,
                },
                At::EndCr if b == b'\r' => At::EndLf,
                At::EndLf if b == b'\n' => At::Done,
                At::Done => return Ok(i),
                At::SizeLf { .. } | At::DataCr | At::DataLf | At::EndCr | At::EndLf => {
                    return Err(Deviation);
                }
            };
            i += 1;
            if self.is_done() {
                return Ok(i);
            }
        }
        Ok(i)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_is_followed_to_its_end_in_any_pieces() {
        let body = b"5\r\nhello\r\n0A\r\n0123456789\r\n0\r\n\r\nGET /";
        for cut in 0..=body.len() {
            let mut f = ChunkFollower::default();
            let first = f.follow(&body[..cut]);
            let second = f.follow(&body[first.unwrap_or_default()..]);
            assert_eq!(
                first.map(|a| a + second.unwrap_or(99)),
                Ok(body.len() - 5),
                "{cut}"
            );
            assert!(f.is_done());
        }
    }

    #[test]
    fn deviations_stop_it() {
        for bad in [
            "5;ext=1\r\nhello\r\n",
            "5 \r\nhello",
            "\r\n",
            "+5\r\n",
            "0x5\r\n",
            "123456789\r\n",
            "5\nhello",
            "5\r\nhelloX",
            "5\r\nhello\n",
            "0\r\nTrailer: x\r\n\r\n",
            "0\r\n\n",
            "g\r\n",
        ] {
            assert_eq!(
                ChunkFollower::default().follow(bad.as_bytes()),
                Err(Deviation),
                "{bad:?}"
            );
        }
    }
}
