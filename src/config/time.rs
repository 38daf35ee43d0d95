//! Times and durations as people write them: RFC 3339, and `10s`, `500ms`, `2m`.

use std::time::Duration;

/// Microseconds since 1970 of an RFC 3339 time, years 1970 to 9999; digits beyond the sixth of a
/// second are dropped. `None`: it is not one.
pub fn parse_rfc3339(text: &str) -> Option<i64> {
    let mut rest = text;
    let year = digits(&mut rest, 4)?;
    separator(&mut rest, "-")?;
    let month = digits(&mut rest, 2)?;
    separator(&mut rest, "-")?;
    let day = digits(&mut rest, 2)?;
    separator(&mut rest, "Tt ")?;
    let hour = digits(&mut rest, 2)?;
    separator(&mut rest, ":")?;
    let minute = digits(&mut rest, 2)?;
    separator(&mut rest, ":")?;
    let second = digits(&mut rest, 2)?;
    let fraction_us = fraction(&mut rest)?;
    let offset_minutes = offset(rest)?;

    let in_range = (1..=12).contains(&month) && (1..=days_in(year, month)).contains(&day);
    // A leap second is read as the second behind it.
    if !in_range || hour > 23 || minute > 59 || second > 60 {
        return None;
    }
    let minutes = (days_since_1970(year, month, day) * 24 + hour) * 60 + minute - offset_minutes;
    let micros = (minutes * 60 + second) * 1_000_000 + fraction_us;
    (micros >= 0).then_some(micros)
}

/// A time in microseconds since 1970 as RFC 3339 text, in UTC, with no more digits than it needs.
pub fn format_rfc3339(micros: i64) -> String {
    let (seconds, fraction) = (micros.div_euclid(1_000_000), micros.rem_euclid(1_000_000));
    let (days, second) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
    // At or before the right year, and at most a few from it.
    let mut year = 1970 + days.div_euclid(366);
    while days_since_1970(year + 1, 1, 1) <= days {
        year += 1;
    }
    let mut day = days - days_since_1970(year, 1, 1);
    let mut month = 1;
    while day >= days_in(year, month) {
        day -= days_in(year, month);
        month += 1;
    }
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    let mut text = format!("{year:04}-{month:02}-{:02}T{hour:02}:{minute:02}:{second:02}", day + 1);
    if fraction > 0 {
        let figures = format!(".{fraction:06}");
        text.push_str(figures.trim_end_matches('0'));
    }
    text.push('Z');
    text
}

/// A duration such as `10s`, `500ms`, `2m`, `1h`, or a whole number of milliseconds.
pub fn parse_duration(text: &str) -> Option<Duration> {
    let text = text.trim();
    let unit_at = text.find(|symbol: char| !symbol.is_ascii_digit()).unwrap_or(text.len());
    let (count, unit) = text.split_at_checked(unit_at)?;
    let millis: u64 = match unit.trim() {
        "" | "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        _ => return None,
    };
    count.parse::<u64>().ok()?.checked_mul(millis).map(Duration::from_millis)
}

fn digits(rest: &mut &str, count: usize) -> Option<i64> {
    let (head, tail) = rest.split_at_checked(count)?;
    *rest = tail;
    head.bytes().all(|byte| byte.is_ascii_digit()).then(|| head.parse().ok())?
}

fn separator(rest: &mut &str, any_of: &str) -> Option<()> {
    let first = rest.chars().next()?;
    *rest = rest.get(first.len_utf8()..)?;
    any_of.contains(first).then_some(())
}

fn fraction(rest: &mut &str) -> Option<i64> {
    let Some(tail) = rest.strip_prefix('.') else { return Some(0) };
    let count = tail.bytes().take_while(u8::is_ascii_digit).count();
    let (figures, tail) = tail.split_at_checked(count)?;
    *rest = tail;
    if figures.is_empty() {
        return None;
    }
    let six = figures.bytes().chain(std::iter::repeat(b'0')).take(6);
    Some(six.fold(0, |micros, figure| micros * 10 + i64::from(figure - b'0')))
}

fn offset(mut rest: &str) -> Option<i64> {
    if rest == "Z" || rest == "z" {
        return Some(0);
    }
    let sign = if rest.starts_with('-') { -1 } else { 1 };
    separator(&mut rest, "+-")?;
    let hours = digits(&mut rest, 2)?;
    separator(&mut rest, ":")?;
    let minutes = digits(&mut rest, 2)?;
    (rest.is_empty() && hours <= 23 && minutes <= 59).then_some(sign * (hours * 60 + minutes))
}

const fn is_leap(year: i64) -> bool {
    year % 4 == 0 && (year % 100 != 0 || year % 400 == 0)
}

const fn days_in(year: i64, month: i64) -> i64 {
    match month {
        2 if is_leap(year) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

fn days_since_1970(year: i64, month: i64, day: i64) -> i64 {
    let before = year - 1;
    let leap_days = |year: i64| year / 4 - year / 100 + year / 400;
    let days_of_years = (year - 1970) * 365 + leap_days(before) - leap_days(1969);
    days_of_years + (1..month).map(|month| days_in(year, month)).sum::<i64>() + day - 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_of_the_rfc() {
        assert_eq!(parse_rfc3339("1970-01-01T00:00:00Z"), Some(0));
        assert_eq!(parse_rfc3339("1985-04-12T23:20:50.52Z"), Some(482_196_050_520_000));
        assert_eq!(parse_rfc3339("1996-12-19T16:39:57-08:00"), Some(851_042_397_000_000));
        assert_eq!(parse_rfc3339("1990-12-31T23:59:60Z"), parse_rfc3339("1991-01-01T00:00:00Z"));
        assert_eq!(parse_rfc3339("2000-02-29t12:00:00.123456789z"), Some(951_825_600_123_456));
        assert_eq!(parse_rfc3339("2024-03-01 00:00:00+01:30"), Some(1_709_245_800_000_000));
        assert_eq!(parse_rfc3339("9999-12-31T23:59:59Z"), Some(253_402_300_799_000_000));
    }

    #[test]
    fn what_is_written_is_read_again() {
        assert_eq!(format_rfc3339(0), "1970-01-01T00:00:00Z");
        assert_eq!(format_rfc3339(482_196_050_520_000), "1985-04-12T23:20:50.52Z");
        for day in 0..60_000_i64 {
            let micros = day * 86_400_000_000 + day * 1_234_567;
            let text = format_rfc3339(micros);
            assert_eq!(parse_rfc3339(&text), Some(micros), "{text}");
        }
    }

    #[test]
    fn what_is_no_time() {
        for text in [
            "",
            "2024",
            "2024-01-01",
            "2024-01-01T00:00:00",
            "2024-13-01T00:00:00Z",
            "2024-00-01T00:00:00Z",
            "2023-02-29T00:00:00Z",
            "1900-02-29T00:00:00Z",
            "2024-01-01T24:00:00Z",
            "2024-01-01T00:60:00Z",
            "2024-01-01T00:00:00.Z",
            "2024-01-01T00:00:00+0100",
            "2024-01-01T00:00:00Z ",
            "2024-01-01T00:00:00ZZ",
            "+024-01-01T00:00:00Z",
            "1969-12-31T23:59:59Z",
            "2024-01-01é00:00:00Z",
            "2024-01-01T00:00:00é",
        ] {
            assert_eq!(parse_rfc3339(text), None, "{text:?}");
        }
    }

    #[test]
    fn durations() {
        assert_eq!(parse_duration("10s"), Some(Duration::from_secs(10)));
        assert_eq!(parse_duration("500ms"), Some(Duration::from_millis(500)));
        assert_eq!(parse_duration(" 2m "), Some(Duration::from_secs(120)));
        assert_eq!(parse_duration("250"), Some(Duration::from_millis(250)));
        for text in ["", "s", "-1s", "1.5s", "10 years", "99999999999999999999", "18446744073709551615h", "é"] {
            assert_eq!(parse_duration(text), None, "{text:?}");
        }
    }
}
