//! Numbers as people read them, in few columns.

/// A number, its thousands apart.
pub(super) fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// How often a second.
pub(super) fn rate(number: f64) -> String {
    match number {
        few if few < 9.95 && few.fract() != 0.0 => format!("{few:.1}"),
        many => count(whole(many)),
    }
}

pub(super) fn ms(number: f64) -> String {
    match number {
        long if long >= 1000.0 => format!("{:.1}s", long / 1000.0),
        middle if middle >= 9.95 => format!("{}ms", whole(middle)),
        short if short >= 1.0 => format!("{short:.1}ms"),
        tiny => format!("{tiny:.2}ms"),
    }
}

pub(super) fn bytes(number: f64) -> String {
    let (mut number, mut units) = (number, ["B", "kB", "MB", "GB", "TB"].into_iter());
    let mut unit = units.next();
    // What would be shown as 1,000 of a unit is one of the next.
    while number >= 999.5 && units.len() > 0 {
        (number, unit) = (number / 1000.0, units.next());
    }
    let unit = unit.unwrap_or_default();
    if unit != "B" && number < 99.95 {
        format!("{number:.1}{unit}")
    } else {
        format!("{}{unit}", count(whole(number)))
    }
}

/// A part of one.
pub(super) fn share(part: f64) -> String {
    match part {
        0.0 => "0%".into(),
        tiny if tiny < 0.001 => "<0.1%".into(),
        part => format!("{:.1}%", part * 100.0),
    }
}

pub(super) fn age(seconds: u64) -> String {
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3600 => format!("{}min", seconds / 60),
        3600..172_800 => format!("{}h", seconds / 3600),
        _ => format!("{}d", seconds / 86_400),
    }
}

fn whole(number: f64) -> u64 {
    // What is below zero, or no number, is none; both never come.
    number.round() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_short_and_exact_enough() {
        assert_eq!([0, 999, 1000, 1_234_567].map(count), ["0", "999", "1,000", "1,234,567"]);
        assert_eq!([0.0, 2.0, 2.54, 9.96, 1234.5].map(rate), ["0", "2", "2.5", "10", "1,235"]);
        assert_eq!([0.123, 1.26, 9.96, 999.4, 1500.0].map(ms), ["0.12ms", "1.3ms", "10ms", "999ms", "1.5s"]);
        assert_eq!(
            [0.0, 999.4, 999.6, 1500.0, 123_456.0, 999_960.0, 2.5e15].map(bytes),
            ["0B", "999B", "1.0kB", "1.5kB", "123kB", "1.0MB", "2,500TB"]
        );
        assert_eq!([0.0, 0.0004, 0.0123, 1.0].map(share), ["0%", "<0.1%", "1.2%", "100.0%"]);
        assert_eq!([59, 3599, 172_799, 172_800].map(age), ["59s", "59min", "47h", "2d"]);
    }
}
