//! Sizes as people write them: `8`, `4K`, `256M`, `1G`, in powers of 1024.

/// Reads a size in bytes.
pub(crate) fn parse(text: &str) -> Result<usize, String> {
    let (digits, unit) = match text.find(|c: char| !c.is_ascii_digit()) {
        Some(at) => text.split_at(at),
        None => (text, ""),
    };
    let shift = match unit.to_ascii_uppercase().as_str() {
        "" | "B" => 0,
        "K" | "KB" | "KIB" => 10,
        "M" | "MB" | "MIB" => 20,
        "G" | "GB" | "GIB" => 30,
        _ => return Err(format!("{text:?} is no size: write 8, 4K, 256M or 1G")),
    };
    let number: usize =
        digits.parse().map_err(|_| format!("{text:?} is no size: write 8, 4K, 256M or 1G"))?;
    number.checked_mul(1 << shift).ok_or_else(|| format!("{text} is more than this machine can address"))
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn sizes_are_read_in_powers_of_1024() {
        assert_eq!(parse("8"), Ok(8));
        assert_eq!(parse("4k"), Ok(4096));
        assert_eq!(parse("256M"), Ok(256 << 20));
        assert_eq!(parse("1GiB"), Ok(1 << 30));
        for bad in ["", "M", "1T", "-1", "1.5M", "99999999999G"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }
}
