/* Keeps parts of a page up to date by asking the server again and again. It knows nothing of orders.
 *
 * The page:
 *   <div data-live-url="/where/to/ask/" data-live-state="running" data-live-summary="Order 7: created">
 *     <p role="status" class="visually-hidden" data-live-announce></p>   optional: is told each new summary
 *     <p role="status" data-live-note hidden></p>                        optional: says when updating has trouble
 *     <section id="trail" data-live-section="trail"> ... </section>      any number, anywhere inside
 *   </div>
 *   Optional on the root: data-live-fast="1" and data-live-slow="10", the seconds between two questions while
 *   something changes and when nothing has for a while.
 * The answer at data-live-url: one element with data-live-state and data-live-summary that holds the same
 *   sections, made by the same templates. It carries an ETag; 304 means that nothing has changed. State "final"
 *   means that nothing will change any more: then asking ends, and a page that is final from the start never asks.
 *   A redirect means that the reader is logged out, 403 and 404 that there is nothing to see any more.
 * Only a section whose HTML has changed is touched, and of that only what differs: focus, selection, scroll
 *   position and open <details> stay. Elements with an id are recognised by it, so give ids to rows that may move.
 *   If what has the focus goes away, the heading of its section (or else the page's) gets it.
 * Clocks, also in pages that never ask: <time data-live-until="ISO time"> counts down ("in 12 s"), and
 *   <time data-live-since="ISO time"> and <time data-live-ago="ISO time"> count up ("for 3 s", "3 s ago"). Without script they keep the text they came with.
 */
(function () {
    "use strict";

    const LOGGED_OUT = "You are logged out, so this page is no longer kept up to date. Reload it to log in again.";
    const GONE = "This page can no longer be shown to you, so it is no longer kept up to date. Reload it to see why.";
    const OFFLINE = "The server does not answer. This page may be out of date; it goes on trying.";
    const TIMEOUT = 15000;
    // How long a new summary stands in its region: it is for being read out, not for being found later.
    const SPOKEN = 2000;

    function watch(root) {
        const fast = seconds(root.dataset.liveFast, 1);
        const slow = seconds(root.dataset.liveSlow, 10);
        const shown = new Map();
        let etag = "";
        let summary = root.dataset.liveSummary;
        let isOver = root.dataset.liveState === "final";
        let isAsking = false;
        let wait = fast;
        let timer = 0;
        let ticker = 0;
        let hush = 0;
        // How far the reader's clock is behind the server's, in milliseconds.
        let skew = 0;

        for (const section of root.querySelectorAll("[data-live-section]")) {
            shown.set(section.dataset.liveSection, section.outerHTML);
        }

        async function ask() {
            clearTimeout(timer);
            if (isOver || isAsking || document.hidden) {
                return;
            }
            isAsking = true;
            try {
                const answer = await fetch(root.dataset.liveUrl, {
                    headers: etag ? {"If-None-Match": etag} : {},
                    cache: "no-store",
                    redirect: "manual",
                    signal: AbortSignal.timeout(TIMEOUT),
                });
                await take(answer);
            } catch (error) {
                // No network, no answer in time, or one that makes no sense: the next one may.
                console.warn("not kept up to date:", error);
                tell(OFFLINE);
                wait = Math.min(wait * 1.6, slow);
            } finally {
                isAsking = false;
            }
            schedule();
        }

        async function take(answer) {
            if (answer.type === "opaqueredirect") {
                end(LOGGED_OUT);
            } else if ([401, 403, 404, 410].includes(answer.status)) {
                end(GONE);
            } else if (answer.status === 304) {
                tell("");
                wait = Math.min(wait * 1.6, slow);
            } else if (answer.ok) {
                const fresh = new DOMParser().parseFromString(await answer.text(), "text/html");
                const answered = fresh.querySelector("[data-live-state]");
                if (!answered) {
                    throw new Error("the answer has no live state");
                }
                readClock(answer.headers.get("Date"));
                wait = show(answered) ? fast : Math.min(wait * 1.6, slow);
                etag = answer.headers.get("ETag") || "";
                tell("");
                if (answered.dataset.liveState === "final") {
                    end("");
                }
            } else {
                throw new Error("the server answered " + answer.status);
            }
        }

        function show(answered) {
            let isChanged = false;
            for (const fresh of answered.querySelectorAll("[data-live-section]")) {
                const name = fresh.dataset.liveSection;
                const html = fresh.outerHTML;
                const section = root.querySelector(`[data-live-section="${CSS.escape(name)}"]`);
                if (section && shown.get(name) !== html) {
                    shown.set(name, html);
                    change(section, fresh);
                    isChanged = true;
                }
            }
            if (answered.dataset.liveSummary !== summary) {
                summary = answered.dataset.liveSummary;
                const region = root.querySelector("[data-live-announce]");
                if (region) {
                    region.textContent = summary;
                    clearTimeout(hush);
                    hush = setTimeout(write, SPOKEN, region, "");
                }
            }
            startClocks();
            return isChanged;
        }

        function schedule() {
            clearTimeout(timer);
            if (isOver || document.hidden) {
                return;
            }
            let delay = wait;
            for (const due of root.querySelectorAll("[data-live-until]")) {
                const left = Date.parse(due.dataset.liveUntil) - now();
                // Something is about to happen: be there soon after, and stay awake for what follows.
                if (left > -fast && left < delay) {
                    delay = Math.max(left + fast / 4, fast / 4);
                    wait = fast;
                }
            }
            timer = setTimeout(ask, delay);
        }

        function end(text) {
            isOver = true;
            root.dataset.liveState = "final";
            tell(text);
        }

        function tell(text) {
            const note = root.querySelector("[data-live-note]");
            if (note && note.textContent !== text) {
                note.textContent = text;
                note.hidden = !text;
            }
        }

        function now() {
            return Date.now() + skew;
        }

        function readClock(date) {
            const ahead = Date.parse(date) + 500 - Date.now();
            // The header counts whole seconds: smaller differences are its own.
            skew = Math.abs(ahead) > 2000 ? ahead : 0;
        }

        function startClocks() {
            clearInterval(ticker);
            if (!document.hidden && tick()) {
                ticker = setInterval(tick, 1000);
            }
        }

        function tick() {
            const until = root.querySelectorAll("[data-live-until]");
            const since = root.querySelectorAll("[data-live-since]");
            const ago = root.querySelectorAll("[data-live-ago]");
            for (const clock of until) {
                const left = Math.ceil((Date.parse(clock.dataset.liveUntil) - now()) / 1000);
                write(clock, left > 0 ? "in " + say(left) : "now");
            }
            for (const clock of since) {
                write(clock, "for " + say(age(clock.dataset.liveSince)));
            }
            for (const clock of ago) {
                write(clock, say(age(clock.dataset.liveAgo)) + " ago");
            }
            return until.length + since.length + ago.length > 0;
        }

        function age(date) {
            return Math.max(0, Math.floor((now() - Date.parse(date)) / 1000));
        }

        document.addEventListener("visibilitychange", () => {
            clearTimeout(timer);
            startClocks();
            wait = fast;
            ask();
        });
        startClocks();
        schedule();
    }

    function seconds(text, otherwise) {
        return (Number(text) || otherwise) * 1000;
    }

    function say(count) {
        if (count < 90) {
            return count + " s";
        }
        const minutes = Math.floor(count / 60);
        return minutes < 90 ? minutes + " min " + (count % 60) + " s" : Math.floor(minutes / 60) + " h " + (minutes % 60) + " min";
    }

    function write(element, text) {
        if (element.textContent !== text) {
            element.textContent = text;
        }
    }

    function isAlike(one, other) {
        return one.nodeType === other.nodeType && one.nodeName === other.nodeName;
    }

    /* As morph, and the reader's place on the page is not lost with what had the focus. */
    function change(section, fresh) {
        const held = section.contains(document.activeElement) ? document.activeElement : null;
        morph(section, fresh);
        if (held && document.activeElement !== held) {
            const heading = section.querySelector("h1, h2, h3") || document.querySelector("h1");
            if (held.isConnected) {
                // It was only moved.
                held.focus({preventScroll: true});
            } else if (heading) {
                heading.tabIndex = -1;
                heading.focus({preventScroll: true});
            }
        }
    }

    /* Make `old` equal to `fresh` with as few changes as possible. Both are of one kind. */
    function morph(old, fresh) {
        if (old.nodeType !== Node.ELEMENT_NODE) {
            if (old.nodeValue !== fresh.nodeValue) {
                old.nodeValue = fresh.nodeValue;
            }
            return;
        }
        for (const name of old.getAttributeNames()) {
            // What the reader has opened stays open, and a heading that was given the focus keeps it.
            const isKept = (name === "open" && old.nodeName === "DETAILS") || (name === "tabindex" && old === document.activeElement);
            if (!fresh.hasAttribute(name) && !isKept) {
                old.removeAttribute(name);
            }
        }
        for (const {name, value} of fresh.attributes) {
            if (old.getAttribute(name) !== value) {
                old.setAttribute(name, value);
            }
        }
        const wanted = new Set([...fresh.children].map((child) => child.id).filter(Boolean));
        const known = new Map();
        for (const child of [...old.children]) {
            if (child.id && wanted.has(child.id)) {
                known.set(child.id, child);
            } else if (child.id) {
                child.remove();
            }
        }
        let next = old.firstChild;
        for (const child of [...fresh.childNodes]) {
            const same = child.id ? known.get(child.id) : next && !next.id && isAlike(next, child) ? next : null;
            if (!same || !isAlike(same, child)) {
                old.insertBefore(child, next);
                continue;
            }
            if (same !== next) {
                old.insertBefore(same, next);
            }
            next = same.nextSibling;
            morph(same, child);
        }
        while (next) {
            const stale = next;
            next = next.nextSibling;
            stale.remove();
        }
    }

    document.querySelectorAll("[data-live-url]").forEach(watch);
})();
