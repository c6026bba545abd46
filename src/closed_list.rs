//! Closed lists: enums with named values, and errors that list the names.

/// Longest list of names that an error joins with "or".
const MAX_ALTERNATIVES: usize = 4;

/// Parses the name of one of `values`.
///
/// # Errors
/// The expected names.
pub(crate) fn parse_name<T: Copy>(
    text: &str,
    values: &[T],
    name: fn(T) -> &'static str,
) -> Result<T, String> {
    let mut named = values.iter().copied();
    named.find(|value| name(*value) == text).ok_or_else(|| {
        let names: Vec<_> = values.iter().map(|value| name(*value)).collect();
        match names.as_slice() {
            [first @ .., last] if !first.is_empty() && names.len() <= MAX_ALTERNATIVES => {
                format!("{} or {last}", first.join(", "))
            }
            _ => format!("one of {}", names.join(", ")),
        }
    })
}

/// Defines an enum with named values: `ALL`, `as_str`, `Display` and `FromStr`.
macro_rules! closed_list {
    (
        $(#[$meta:meta])*
        $visibility:vis enum $name:ident {
            $($(#[$value_meta:meta])* $value:ident = $text:literal,)*
        }
    ) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
        $visibility enum $name {
            $($(#[$value_meta])* $value,)*
        }

        impl $name {
            /// Every value, in the order of the definition.
            $visibility const ALL: [Self; [$($text),*].len()] = [$(Self::$value),*];

            /// Returns the name of the value.
            $visibility const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$value => $text,)*
                }
            }
        }

        impl ::std::fmt::Display for $name {
            fn fmt(&self, f: &mut ::std::fmt::Formatter<'_>) -> ::std::fmt::Result {
                f.write_str(self.as_str())
            }
        }

        impl ::std::str::FromStr for $name {
            type Err = String;

            fn from_str(text: &str) -> Result<Self, String> {
                $crate::closed_list::parse_name(text, &Self::ALL, Self::as_str)
            }
        }
    };
}

pub(crate) use closed_list;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_name_returns_the_expected_names() {
        let parse = |names: &[&'static str]| parse_name("x", names, |name| name).unwrap_err();
        assert_eq!(parse(&["a"]), "one of a");
        assert_eq!(parse(&["a", "b"]), "a or b");
        assert_eq!(parse(&["a", "b", "c", "d"]), "a, b, c or d");
        assert_eq!(parse(&["a", "b", "c", "d", "e"]), "one of a, b, c, d, e");
        assert_eq!(parse_name("b", &["a", "b"], |name| name), Ok("b"));
    }
}
