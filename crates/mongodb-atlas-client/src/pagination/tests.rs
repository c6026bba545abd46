use super::*;

/// Returns the number of requests for a list with these numbers of results on its pages, and whether the pages are
/// consistent.
fn read(page_size: u32, pages: &[usize], last: NextLink, total: Option<u64>) -> (usize, bool) {
    let mut pagination = Pagination::new(page_size);
    for requests in 1..100 {
        let results = pages.get(requests - 1).copied().unwrap_or(0);
        let next = match last {
            NextLink::Absent if requests < pages.len() => NextLink::Present,
            last => last,
        };
        let page = PageSummary {
            results,
            duplicates: 0,
            next_link: next,
            total_count: total,
        };
        if pagination.add(page) == NextPage::None {
            return (requests, pagination.is_consistent());
        }
    }
    panic!("no end");
}

#[test]
fn links_and_total_count_end_the_list() {
    for (pages, total, requests) in [
        (&[0][..], Some(0), 1),
        (&[5], Some(5), 1),
        (&[10], Some(10), 1),
        (&[10, 10], Some(20), 2),
        (&[10, 3], None, 2),
        // Neither a full page nor a different total alone proves the end.
        (&[10, 10], None, 3),
        (&[10, 10], Some(7), 3),
        (&[10, 3], Some(7), 2),
        (&[10, 3], Some(99), 3),
    ] {
        let (actual, consistent) = read(10, pages, NextLink::Absent, total);
        assert_eq!(
            (actual, consistent),
            (requests, true),
            "{pages:?} {total:?}"
        );
    }
}

#[test]
fn full_page_without_links_is_followed() {
    for (pages, total, requests) in [
        (&[0][..], None, 1),
        (&[9], None, 1),
        (&[10], None, 2),
        (&[10], Some(10), 2),
        (&[10, 3], Some(13), 2),
        // Atlas returns 4 of 10 requested results.
        (&[4, 4, 4, 1], Some(13), 4),
        (&[4, 4, 4], Some(12), 3),
    ] {
        let (actual, consistent) = read(10, pages, NextLink::Unknown, total);
        assert_eq!(
            (actual, consistent),
            (requests, true),
            "{pages:?} {total:?}"
        );
    }
}

#[test]
fn short_inner_page_is_inconsistent() {
    for (pages, total) in [
        (&[10, 9, 5][..], Some(25)),
        (&[9, 10, 5], Some(25)),
        (&[9, 5], Some(15)),
        (&[9, 5], None),
    ] {
        assert!(
            !read(10, pages, NextLink::Absent, total).1,
            "{pages:?} {total:?}"
        );
    }
}

#[test]
fn unmet_total_is_reported_beyond_the_tolerance() {
    let unmet = |read, totals: &[u64]| {
        let mut pagination = Pagination::new(500);
        for (results, total) in [read, 0].into_iter().zip(totals) {
            pagination.add(PageSummary {
                results,
                duplicates: 0,
                next_link: NextLink::Absent,
                total_count: Some(*total),
            });
        }
        pagination.unmet_total()
    };
    assert_eq!(unmet(100, &[1234, 1234]), Some(1234));
    assert_eq!(unmet(99, &[101, 101]), Some(101));
    assert_eq!(unmet(99, &[100, 100]), None);
    assert_eq!(unmet(495, &[500, 500]), None);
    assert_eq!(unmet(99, &[101, 103]), Some(103));
    assert_eq!(unmet(99, &[98, 103]), None, "it drifted by 5");
    assert_eq!(unmet(99, &[7, 7]), None);
}
