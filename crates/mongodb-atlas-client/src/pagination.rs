//! Detection of the last page of a list.
//!
//! Atlas documents `links` and `totalCount` as optional, `totalCount` as an estimate, and may return fewer results on a page
//! than requested. Neither alone proves the end: a page without a `next` link is the last one when it is not full and no
//! more results are expected, or when `totalCount` agrees exactly. Otherwise one more page is requested.

use crate::wire::NextLink;

/// The properties of one page of a list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PageSummary {
    /// Number of results on the page.
    pub results: usize,
    /// Number of results that were also on earlier pages.
    pub duplicates: usize,
    /// The link to the next page.
    pub next_link: NextLink,
    /// `totalCount`.
    pub total_count: Option<u64>,
}

/// Whether another page follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NextPage {
    /// Atlas links to it.
    Linked,
    /// Atlas does not link to it, but there may be one.
    Possible,
    /// The page was the last one.
    None,
}

/// Maximum number of consecutive empty pages that are followed when each has a link to the next one.
const MAX_EMPTY_PAGES: u32 = 3;

/// The pages of one list so far, in order.
#[derive(Debug, Clone, Default)]
pub struct Pagination {
    page_size: u64,
    read_count: u64,
    total_count: Option<u64>,
    /// Number of results on the largest page.
    largest_page: u64,
    /// Number of results on the smallest page before the last one.
    smallest_inner_page: Option<u64>,
    previous_page: Option<u64>,
    /// Whether the last page was full or has a link to the next one.
    is_continued: bool,
    /// Number of consecutive empty pages.
    empty_pages: u32,
    lowest_total: Option<u64>,
    highest_total: Option<u64>,
}

impl Pagination {
    /// Creates the state before the first page; `page_size` is the number of results requested per page.
    pub fn new(page_size: u32) -> Self {
        Self {
            page_size: page_size.max(1).into(),
            ..Self::default()
        }
    }

    /// Adds a page, and returns whether another one follows.
    pub fn add(&mut self, page: PageSummary) -> NextPage {
        let results = page.results as u64;
        self.read_count += page.results.saturating_sub(page.duplicates) as u64;
        if let Some(total) = page.total_count {
            self.add_total(total);
        }
        if results == 0 {
            self.empty_pages += 1;
            // A page in the middle can be empty; its link still leads to the next one.
            return match page.next_link {
                NextLink::Present => NextPage::Linked,
                _ => NextPage::None,
            };
        }
        self.empty_pages = 0;
        // A page without new results is no evidence for the size of the other pages.
        if page.duplicates < page.results {
            self.largest_page = self.largest_page.max(results);
            if let Some(previous) = self.previous_page.replace(results) {
                let smallest = self.smallest_inner_page.unwrap_or(previous);
                self.smallest_inner_page = Some(smallest.min(previous));
            }
        }
        let is_full = results >= self.page_size;
        self.is_continued = is_full || page.next_link == NextLink::Present;
        let is_agreed =
            page.next_link == NextLink::Absent && self.total_count == Some(self.read_count);
        match page.next_link {
            NextLink::Present => NextPage::Linked,
            _ if self.expects_more() || (is_full && !is_agreed) => NextPage::Possible,
            _ => NextPage::None,
        }
    }

    fn add_total(&mut self, total: u64) {
        // A count below the number of results is less reliable than an earlier count that was plausible.
        let is_plausible = |total: u64| total >= self.read_count;
        if is_plausible(total) || !self.total_count.is_some_and(is_plausible) {
            self.total_count = Some(total);
        }
        self.lowest_total = Some(self.lowest_total.map_or(total, |lowest| lowest.min(total)));
        self.highest_total = self.highest_total.max(Some(total));
    }

    /// Returns whether more consecutive empty pages than the maximum had a link to the next one.
    pub fn is_endless(&self) -> bool {
        self.empty_pages > MAX_EMPTY_PAGES
    }

    /// Returns the number of results so far, without duplicates.
    pub fn read_count(&self) -> u64 {
        self.read_count
    }

    /// Returns the number of pages according to `totalCount`; 0 if only `totalCount` indicates another page, which is then
    /// requested without concurrency.
    pub fn expected_pages(&self) -> u32 {
        if !self.is_continued {
            return 0;
        }
        let page_size = match self.largest_page {
            0 => self.page_size,
            largest => largest,
        };
        let pages = self.total_count.unwrap_or(0).div_ceil(page_size);
        u32::try_from(pages).unwrap_or(u32::MAX)
    }

    /// Returns whether the pages are consistent: `totalCount` did not change, and each page but the last one had the same
    /// number of results. Pages that all have fewer results than requested are a limit of Atlas, if all results were received.
    pub fn is_consistent(&self) -> bool {
        let is_even = self
            .smallest_inner_page
            .is_none_or(|smallest| smallest >= self.largest_page);
        let is_capped = self.smallest_inner_page.is_some() && self.largest_page < self.page_size;
        let is_complete = self.total_count.is_some() && !self.expects_more();
        self.lowest_total == self.highest_total && is_even && (!is_capped || is_complete)
    }

    /// Returns `totalCount` if fewer results were read, by more than `totalCount` changed in the meantime and by more than one percent.
    pub fn unmet_total(&self) -> Option<u64> {
        let total = self.total_count?;
        let drift = self.highest_total?.saturating_sub(self.lowest_total?);
        let tolerance = drift.max(total / 100).max(1);
        (total.saturating_sub(self.read_count) > tolerance).then_some(total)
    }

    /// Returns whether fewer results were read than `totalCount`.
    pub fn expects_more(&self) -> bool {
        self.total_count
            .is_some_and(|total| self.read_count < total)
    }
}

#[cfg(test)]
mod tests;
