// Filters and sorts in place. Without this script the same links and the same form load the page.
"use strict";
(() => {
  const form = document.getElementById("filter");
  let waiting;
  let latest;

  const show = async (url) => {
    latest?.abort();
    latest = new AbortController();
    try {
      const answer = await fetch(url, { signal: latest.signal });
      const text = await answer.text();
      const page = new DOMParser().parseFromString(text, "text/html");
      const fresh = page.getElementById("found");
      if (!answer.ok || !fresh) {
        throw new Error("no page");
      }
      const focused = document.activeElement?.id;
      document.getElementById("found").replaceWith(document.adoptNode(fresh));
      document.getElementById("number").textContent = page.getElementById("number").textContent;
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
    const parts = new URLSearchParams(new FormData(form));
    show("?" + parts.toString());
  };

  form.addEventListener("submit", (event) => {
    event.preventDefault();
    clearTimeout(waiting);
    filter();
  });
  form.elements.q.addEventListener("input", () => {
    clearTimeout(waiting);
    waiting = setTimeout(filter, 200);
  });
  document.addEventListener("click", (event) => {
    const link = event.target.closest("a[data-here]");
    if (link && !event.ctrlKey && !event.metaKey && !event.shiftKey && event.button === 0) {
      event.preventDefault();
      show(link.getAttribute("href"));
    }
  });
})();
