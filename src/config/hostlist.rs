//! Slurm's lists of hosts, such as `node[001-003,7],gpu2`, written out.

/// More hosts than any cluster has; a list beyond it is refused before it fills the memory.
const LIMIT: usize = 1 << 16;

/// The hosts of a list, in its order. Items are separated by commas; brackets hold numbers and ranges of them, zeros
/// in front are kept, and where an item has several brackets the last one counts fastest.
///
/// # Errors
/// What is wrong with the list, in words.
pub(super) fn expand(list: &str) -> Result<Vec<String>, String> {
    let mut hosts = Vec::new();
    for item in items(list)? {
        if item.is_empty() {
            return Err("there is a comma with nothing on one side".into());
        }
        hosts.extend(expand_item(item)?);
        if hosts.len() > LIMIT {
            return Err(format!("it names more than {LIMIT} hosts"));
        }
    }
    Ok(hosts)
}

/// The items between the commas that are outside of brackets.
fn items(list: &str) -> Result<Vec<&str>, String> {
    let (mut items, mut start, mut inside) = (Vec::new(), 0, false);
    for (at, c) in list.char_indices() {
        match c {
            '[' if inside => return Err("a bracket opens inside of another".into()),
            '[' => inside = true,
            ']' if !inside => return Err("a bracket closes that was not opened".into()),
            ']' => inside = false,
            ',' if !inside => {
                items.push(&list[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    if inside {
        return Err("a bracket is not closed".into());
    }
    items.push(&list[start..]);
    Ok(items)
}

fn expand_item(item: &str) -> Result<Vec<String>, String> {
    let mut names = vec![String::new()];
    let mut rest = item;
    while let Some((text, after)) = rest.split_once('[') {
        let (numbers, after) = after.split_once(']').ok_or("a bracket is not closed")?;
        let numbers = expand_numbers(numbers)?;
        if names.len().saturating_mul(numbers.len()) > LIMIT {
            return Err(format!("it names more than {LIMIT} hosts"));
        }
        names = names
            .iter()
            .flat_map(|name| numbers.iter().map(move |number| format!("{name}{text}{number}")))
            .collect();
        rest = after;
    }
    names.iter_mut().for_each(|name| name.push_str(rest));
    Ok(names)
}

/// The numbers between two brackets, as they are written.
fn expand_numbers(text: &str) -> Result<Vec<String>, String> {
    let mut all = Vec::new();
    for part in text.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let number = |digits: &str| {
            let plain = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
            let value = digits.parse::<u64>().ok().filter(|_| plain);
            value.ok_or_else(|| format!("{digits:?} between brackets is no number"))
        };
        let (from, to) = (number(first)?, number(last)?);
        if from > to {
            return Err(format!("the range {part} runs backwards"));
        }
        if to - from >= (LIMIT - all.len()) as u64 {
            return Err(format!("it names more than {LIMIT} hosts"));
        }
        all.extend((from..=to).map(|value| format!("{value:0width$}", width = first.len())));
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_written_out_in_order() {
        for (list, hosts) in [
            ("alone", &["alone"][..]),
            ("node[001-003,7],gpu2", &["node001", "node002", "node003", "node7", "gpu2"]),
            ("n[8-11]", &["n8", "n9", "n10", "n11"]),
            ("n[08-11]", &["n08", "n09", "n10", "n11"]),
            ("n[3]-ib.cluster", &["n3-ib.cluster"]),
            ("r[0-1]n[1-2]", &["r0n1", "r0n2", "r1n1", "r1n2"]),
            ("b,a,b", &["b", "a", "b"]),
            ("10.0.0.[9-10]", &["10.0.0.9", "10.0.0.10"]),
            ("n[18446744073709551615]", &["n18446744073709551615"]),
        ] {
            assert_eq!(expand(list).unwrap(), hosts, "{list}");
        }
    }

    #[test]
    fn what_is_no_list_is_refused_with_the_reason() {
        for (list, says) in [
            ("", "nothing on one side"),
            ("a,,b", "nothing on one side"),
            ("a,", "nothing on one side"),
            ("a[1", "not closed"),
            ("a]1", "not opened"),
            ("a[1[2]]", "inside of another"),
            ("a[]", "no number"),
            ("a[1-]", "no number"),
            ("a[+1]", "no number"),
            ("a[1-2-3]", "no number"),
            ("a[x]", "no number"),
            ("a[3-1]", "backwards"),
            ("a[0-18446744073709551615]", "more than 65536"),
            ("a[0-65535],b", "more than 65536"),
            ("a[0-9999]b[0-9999]c[0-9999]", "more than 65536"),
            ("a[18446744073709551616]", "no number"),
        ] {
            let error = expand(list).expect_err(list);
            assert!(error.contains(says), "{list}: {error}");
        }
    }

    /// Writes hosts as Slurm does: neighbours with one prefix and one width become ranges.
    fn compress(hosts: &[(String, u64, usize)]) -> String {
        let mut items: Vec<(String, Vec<String>)> = Vec::new();
        let mut at = 0;
        while at < hosts.len() {
            let (prefix, first, width) = &hosts[at];
            let digits = |value: u64| format!("{value:0width$}").len();
            let run = hosts[at..]
                .iter()
                .zip(*first..)
                .take_while(|((p, n, w), wanted)| {
                    p == prefix && w == width && n == wanted && digits(*n) >= digits(*first)
                })
                .count();
            let last = first + run as u64 - 1;
            let range = if run == 1 { format!("{first:0width$}") } else { format!("{first:0width$}-{last}") };
            match items.last_mut() {
                Some((p, ranges)) if p == prefix => ranges.push(range),
                _ => items.push((prefix.clone(), vec![range])),
            }
            at += run;
        }
        let items: Vec<String> =
            items.iter().map(|(prefix, ranges)| format!("{prefix}[{}]", ranges.join(","))).collect();
        items.join(",")
    }

    #[test]
    fn what_was_compressed_comes_back() {
        let mut random = fastrand::Rng::with_seed(31);
        for _ in 0..2000 {
            let mut hosts = Vec::new();
            for _ in 0..random.usize(1..6) {
                let prefix = ["node", "gpu-", "r3n", "a.b"][random.usize(..4)].to_owned();
                let (first, width) = (random.u64(0..1200), random.usize(1..6));
                hosts.extend((first..first + random.u64(1..30)).map(|n| (prefix.clone(), n, width)));
            }
            let names: Vec<String> = hosts.iter().map(|(p, n, width)| format!("{p}{n:0width$}")).collect();
            let list = compress(&hosts);
            assert_eq!(expand(&list).unwrap(), names, "{list}");
        }
    }

    #[test]
    fn garbage_ends_in_hosts_or_in_words() {
        let mut random = fastrand::Rng::with_seed(32);
        let alphabet: Vec<char> = "ab019[],-[]é".chars().collect();
        let mut good = 0;
        for _ in 0..50_000 {
            let length = random.usize(0..14);
            let list: String = (0..length).map(|_| alphabet[random.usize(..alphabet.len())]).collect();
            if let Ok(hosts) = expand(&list) {
                good += 1;
                assert!(!hosts.is_empty() && hosts.len() <= LIMIT);
                assert!(hosts.iter().all(|host| !host.contains(['[', ']', ','])), "{list}: {hosts:?}");
            }
        }
        assert!(good > 1000, "{good}");
    }
}
