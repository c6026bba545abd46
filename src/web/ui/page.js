// Filters and sorts without loading the whole page. Without this script, the same links and form load the page.
"use strict";
(() => {
  const form = document.getElementById("filter");
  let debounce;
  let latest;

  const show = async (url) => {
    latest?.abort();
    latest = new AbortController();
    try {
      const response = await fetch(url, { signal: latest.signal });
      const text = await response.text();
      const page = new DOMParser().parseFromString(text, "text/html");
      const fresh = page.getElementById("key-table");
      if (!response.ok || !fresh) {
        throw new Error("no page");
      }
      const focused = document.activeElement?.id;
      document.getElementById("key-table").replaceWith(document.adoptNode(fresh));
      document.getElementById("key-count").textContent = page.getElementById("key-count").textContent;
      history.replaceState(null, "", url);
      if (focused) {
        document.getElementById(focused)?.focus();
      }
    } catch (error) {
      if (error.name !== "AbortError") {
        location.assign(url);
      }
    }
  };

  const filter = () => {
    const query = new URLSearchParams(new FormData(form));
    show("?" + query.toString());
  };

  form.addEventListener("submit", (event) => {
    event.preventDefault();
    clearTimeout(debounce);
    filter();
  });
  form.elements.q.addEventListener("input", () => {
    clearTimeout(debounce);
    debounce = setTimeout(filter, 200);
  });
  document.addEventListener("click", (event) => {
    const link = event.target.closest("a[data-partial]");
    if (link && !event.ctrlKey && !event.metaKey && !event.shiftKey && event.button === 0) {
      event.preventDefault();
      show(link.getAttribute("href"));
    }
  });
})();
