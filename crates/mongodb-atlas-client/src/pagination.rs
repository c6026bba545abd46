//! Which page of a list is the last one.
//!
//! Atlas documents `links` and `totalCount` as optional, `totalCount` as an estimate, and may give less on a page than
//! was asked for. So neither proves the end alone: a page without a `next` link is the last one when it is not full
//! and no more results are expected, or when `totalCount` agrees exactly. Else one page more is asked for.

use super::wire::NextLink;

/// What one page of a list says of the others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PageSummary {
    /// Results on the page.
    pub results: usize,
    /// Those that pages before it had as well.
    pub duplicates: usize,
    /// Its links.
    pub next_link: NextLink,
    /// `totalCount`.
    pub total_count: Option<u64>,
}

/// Whether a page follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NextPage {
    /// Atlas gives a link to it.
    Linked,
    /// Atlas does not say so, and there may be one all the same.
    Possible,
    /// The page was the last one.
    None,
}

/// Empty pages in a row that are followed where each names a next one.
const MAX_EMPTY_PAGES: u32 = 3;

/// The pages of one list so far, in their order.
#[derive(Debug, Clone)]
pub struct Pagination {
    page_size: u64,
    read_count: u64,
    total_count: Option<u64>,
    /// Results on the page with the most.
    largest_page: u64,
    /// Results on the page with the least of those that another one followed.
    smallest_inner_page: Option<u64>,
    previous_page: Option<u64>,
    /// Whether the last page leaves little doubt that another one follows.
    is_continued: bool,
    /// Empty pages in a row.
    empty_pages: u32,
    lowest_total: Option<u64>,
    highest_total: Option<u64>,
}

impl Pagination {
    /// No page yet; `page_size` results are asked for.
    pub fn new(page_size: u32) -> Self {
        Self {
            page_size: page_size.max(1).into(),
            read_count: 0,
            total_count: None,
            largest_page: 0,
            smallest_inner_page: None,
            previous_page: None,
            is_continued: false,
            empty_pages: 0,
            lowest_total: None,
            highest_total: None,
        }
    }

    /// Adds a page, and says whether another one follows.
    pub fn add(&mut self, page: PageSummary) -> NextPage {
        let results = page.results as u64;
        self.read_count += page.results.saturating_sub(page.duplicates) as u64;
        if let Some(total) = page.total_count {
            // a count below what was read says less than one before it that was not
            if total >= self.read_count
                || self
                    .total_count
                    .is_none_or(|before| before < self.read_count)
            {
                self.total_count = Some(total);
            }
            self.lowest_total = Some(self.lowest_total.map_or(total, |low| low.min(total)));
            self.highest_total = self.highest_total.max(Some(total));
        }
        if results == 0 {
            self.empty_pages += 1;
            // a page in between can be empty; what it names is still the next one
            return match page.next_link {
                NextLink::Present => NextPage::Linked,
                _ => NextPage::None,
            };
        }
        self.empty_pages = 0;
        // a page with nothing new says nothing of the others
        if page.duplicates < page.results {
            self.largest_page = self.largest_page.max(results);
            if let Some(previous) = self.previous_page.replace(results) {
                let least = self.smallest_inner_page.unwrap_or(previous);
                self.smallest_inner_page = Some(least.min(previous));
            }
        }
        let full = results >= self.page_size;
        self.is_continued = full || page.next_link == NextLink::Present;
        let agreed =
            page.next_link == NextLink::Absent && self.total_count == Some(self.read_count);
        match page.next_link {
            NextLink::Present => NextPage::Linked,
            _ if self.expects_more() || (full && !agreed) => NextPage::Possible,
            _ => NextPage::None,
        }
    }

    /// Whether so many pages in a row were empty that the next one will be as well.
    pub fn is_endless(&self) -> bool {
        self.empty_pages > MAX_EMPTY_PAGES
    }

    /// Results read so far, without those that came twice.
    pub fn read_count(&self) -> u64 {
        self.read_count
    }

    /// Number of pages that `totalCount` promises; 0 when nothing but `totalCount` speaks for another one, which is
    /// then asked for alone.
    pub fn expected_pages(&self) -> u32 {
        if !self.is_continued {
            return 0;
        }
        let per_page = if self.largest_page == 0 {
            self.page_size
        } else {
            self.largest_page
        };
        let pages = self.total_count.unwrap_or(0).div_ceil(per_page);
        u32::try_from(pages).unwrap_or(u32::MAX)
    }

    /// Whether the pages fit together: `totalCount` stood still, and each page but the last one had as many results as
    /// the others. Where all have less than was asked for, Atlas has a limit of its own if all results came.
    pub fn is_consistent(&self) -> bool {
        let even = self
            .smallest_inner_page
            .is_none_or(|least| least >= self.largest_page);
        let is_capped = self.smallest_inner_page.is_some() && self.largest_page < self.page_size;
        let complete = self.total_count.is_some() && !self.expects_more();
        self.lowest_total == self.highest_total && even && (!is_capped || complete)
    }

    /// The `totalCount` that less was read than, by more than it changed meanwhile and by more than one in a hundred.
    pub fn unmet_total(&self) -> Option<u64> {
        let total = self.total_count?;
        let drift = self.highest_total?.saturating_sub(self.lowest_total?);
        let tolerated = drift.max(total / 100).max(1);
        (total.saturating_sub(self.read_count) > tolerated).then_some(total)
    }

    /// Whether fewer results were read than `totalCount` says.
    pub fn expects_more(&self) -> bool {
        self.total_count
            .is_some_and(|total| self.read_count < total)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The requests that a list costs whose pages hold so many results, and whether the pages fit together.
    fn walk(page_size: u32, pages: &[usize], last: NextLink, total: Option<u64>) -> (usize, bool) {
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
            // a full page alone proves nothing, nor does a total that says something else
            (&[10, 10], None, 3),
            (&[10, 10], Some(7), 3),
            (&[10, 3], Some(7), 2),
            (&[10, 3], Some(99), 3),
        ] {
            let (asked, consistent) = walk(10, pages, NextLink::Absent, total);
            assert_eq!((asked, consistent), (requests, true), "{pages:?} {total:?}");
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
            // Atlas gives 4 where 10 were asked for
            (&[4, 4, 4, 1], Some(13), 4),
            (&[4, 4, 4], Some(12), 3),
        ] {
            let (asked, consistent) = walk(10, pages, NextLink::Unknown, total);
            assert_eq!((asked, consistent), (requests, true), "{pages:?} {total:?}");
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
                !walk(10, pages, NextLink::Absent, total).1,
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
}
