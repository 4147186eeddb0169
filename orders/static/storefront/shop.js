/* What the shop's pages do better with a script; without it every form works as a plain form.
 *   form[data-once]  is sent once: a second click, while the first is on its way, does nothing.
 *   form[data-add]   puts what the attribute names into the cart without leaving the page: the answer is the page
 *                    again, and its notice and its cart link are put in place of ours. One form after the other:
 *                    the first answer brings the session that all of them belong to.
 */
(function () {
    "use strict";

    const AWAY = 6000;
    // After this the customer may have stopped the page, and an answer that is still out is given up.
    const PATIENCE = 10000;
    const TIMEOUT = 20000;
    let timer = 0;
    let queue = Promise.resolve();
    let waiting = 0;

    document.addEventListener("submit", event => {
        const form = event.target;
        if (form.matches("[data-add]")) {
            event.preventDefault();
            add(form);
        } else if (form.matches("[data-once]")) {
            if (form.dataset.sent) {
                event.preventDefault();
                return;
            }
            form.dataset.sent = "1";
            setTimeout(release, PATIENCE, form);
        }
    });

    // Back from the next page: the form may be sent anew.
    window.addEventListener("pageshow", () => document.querySelectorAll("[data-sent]").forEach(release));

    // The cart is shown with all that has been put in. A second click does not wait.
    document.addEventListener("click", event => {
        const link = event.target.closest("#cart-link, #notice a");
        if (link && waiting && !link.dataset.sent && !event.ctrlKey && !event.metaKey && !event.shiftKey) {
            event.preventDefault();
            link.dataset.sent = "1";
            queue.then(() => location.assign(link.href));
        }
    });

    function release(element) {
        delete element.dataset.sent;
    }

    function add(form) {
        if (form.dataset.sent) {
            return;
        }
        form.dataset.sent = "1";
        document.getElementById("notice").replaceChildren();
        const body = new FormData(form);
        waiting += 1;
        queue = queue.then(() => put(form, body)).finally(() => {
            waiting -= 1;
            release(form);
        });
    }

    async function put(form, body) {
        try {
            const answer = await fetch(form.action, {method: "POST", body, signal: AbortSignal.timeout(TIMEOUT)});
            if (answer.status === 403 && !answer.redirected) {
                // The form is too old, and nothing was done: the page that says so is the answer to a plain form.
                form.submit();
                return;
            }
            const fresh = new DOMParser().parseFromString(await answer.text(), "text/html");
            const said = fresh.getElementById("notice");
            if (!answer.ok || !said || !said.childElementCount) {
                throw new Error("the server answered " + answer.status);
            }
            for (const line of said.children) {
                line.removeAttribute("autofocus");
            }
            const link = document.getElementById("cart-link");
            link.replaceChildren(...fresh.getElementById("cart-link").childNodes);
            tell(...said.children);
        } catch (error) {
            // It may have been put in all the same: sending it again could put it in twice.
            console.warn("not known whether it was added:", error);
            tell(doubt(form.dataset.add));
        }
    }

    function doubt(name) {
        const line = document.createElement("p");
        const link = document.createElement("a");
        line.className = "notice error";
        link.href = document.getElementById("cart-link").href;
        link.textContent = "see your cart";
        line.append(`We do not know whether ${name} was added: `, link, ".");
        return line;
    }

    /* Say it in place of the last success. What went wrong stays until something else is put in. */
    function tell(...lines) {
        const notice = document.getElementById("notice");
        notice.classList.add("floating");
        notice.querySelectorAll(".success").forEach(line => line.remove());
        notice.append(...lines);
        clearTimeout(timer);
        timer = setTimeout(clear, AWAY, notice);
    }

    function clear(notice) {
        // Not while it is being read or used.
        if (notice.matches(":hover, :focus-within")) {
            timer = setTimeout(clear, AWAY, notice);
        } else {
            notice.querySelectorAll(".success").forEach(line => line.remove());
        }
    }
})();
