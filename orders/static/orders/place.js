/* The page that places an order: a combobox over each SKU, amounts, the total, and warnings about stock.
   Without this script the page works all the same: SKUs are typed and the desk computes the total. */
"use strict";
{
    const form = document.getElementById("order_form");
    const group = document.getElementById("lines-group");
    const status = document.getElementById("place-status");
    const total = document.getElementById("place-total");
    const shownTotal = document.getElementById("id_shown_total");
    const currency = form.dataset.currency;

    // Every product seen so far, by SKU; null for a SKU that was looked up and is not on sale.
    const known = new Map();
    // One list for all rows: it stands below the input it is opened for.
    const popup = document.createElement("div");
    const list = document.createElement("ul");
    const note = document.createElement("p");
    popup.className = "place-popup";
    popup.hidden = true;
    list.id = "place-options";
    list.setAttribute("role", "listbox");
    list.setAttribute("aria-label", "Products");
    note.className = "place-note";
    popup.append(list, note);

    let owner = null; // the input the list is open for
    let active = -1; // the highlighted option
    let search = {term: "", page: 0, more: false, request: null, timer: 0};

    // --- money: counted in cents, as whole numbers of any size -----------------------------------------

    const toCents = (price) => {
        const [units, cents = ""] = price.split(".");
        return BigInt(units + cents.padEnd(2, "0"));
    };
    const toText = (cents) => {
        const digits = String(cents).padStart(3, "0");
        return `${digits.slice(0, -2)}.${digits.slice(-2)}`;
    };

    // --- rows ------------------------------------------------------------------------------------------

    const listRows = () => [...group.querySelectorAll("tbody > tr.form-row:not(.empty-form)")];
    const skuOf = (row) => row.querySelector(".place-sku");
    const quantityOf = (row) => row.querySelector(".place-quantity");
    const readQuantity = (row) => {
        const text = quantityOf(row).value.trim();
        // As the desk reads it: 2.0 is 2.
        return /^\d{1,9}(\.0*)?$/.test(text) && Number(text) > 0 ? Number(text) : null;
    };

    /** Bring names, amounts, warnings and the total of all rows up to date. */
    function refresh() {
        const rows = listRows();
        const wanted = new Map();
        for (const row of rows) {
            const sku = skuOf(row).value.trim();
            wanted.set(sku, (wanted.get(sku) || 0) + (readQuantity(row) || 0));
        }
        let sum = 0n;
        rows.forEach((row, index) => {
            const input = skuOf(row);
            const quantity = readQuantity(row);
            const product = known.get(input.value.trim());
            const hint = row.querySelector(".place-hint");
            const warning = row.querySelector(".place-warning");
            const amount = product && quantity ? toCents(product.price) * BigInt(quantity) : null;
            if (amount !== null) {
                sum += amount;
            }
            write(row.querySelector(".field-amount"), amount === null ? "" : `${toText(amount)} ${currency}`);
            const refused = row.querySelector(".field-sku .errorlist");
            write(hint, product ? `${product.name}: ${product.price} ${currency}, ${product.available} available`
                : product === null && !refused ? `There is no product '${input.value.trim()}' on sale.` : "");
            hint.classList.toggle("place-unknown", product === null);
            const short = Boolean(product && quantity && wanted.get(product.sku) > product.available);
            warning.hidden = !short;
            write(warning, short ? `only ${product.available} available: the order would be rolled back` : "");
            for (const line of row.querySelectorAll(".place-n")) {
                line.textContent = ` line ${index + 1}`;
            }
            const remove = row.querySelector(".inline-deletelink");
            if (remove) {
                remove.setAttribute("aria-label", `Remove line ${index + 1}`);
            }
            describe(row, input, hint);
            describe(row, quantityOf(row), warning);
        });
        write(total, `${toText(sum)} ${currency}`);
        // Sent along: the desk places nothing at a total other than the one that stood here.
        shownTotal.value = toText(sum);
    }

    /** Set a text only when it differs, so that a screen reader is not told twice. */
    function write(element, text) {
        if (element.textContent !== text) {
            element.textContent = text;
        }
    }

    /** Rows are renumbered when one is removed; what describes a field must follow. */
    function describe(row, input, own) {
        const errors = input.closest("td").querySelector(".errorlist");
        input.setAttribute("aria-describedby", [errors && errors.id, own.id].filter(Boolean).join(" "));
    }

    // --- looking products up ---------------------------------------------------------------------------

    async function fetchProducts(term, page, signal) {
        const address = `${form.dataset.products}?${new URLSearchParams({term, page})}`;
        const answer = await fetch(address, {signal, headers: {Accept: "application/json"}});
        // A session that has ended is answered with the log-in page.
        if (!answer.ok || answer.redirected) {
            throw new Error(`products: ${answer.status}`);
        }
        const found = await answer.json();
        for (const product of found.results) {
            known.set(product.sku, product);
        }
        return found;
    }

    function tellFailure(error) {
        if (error.name === "AbortError") {
            return;
        }
        console.warn(error);
        const text = "Products cannot be looked up just now. Type the SKU in full, or load the page again.";
        list.replaceChildren();
        note.textContent = text;
        status.textContent = text;
    }

    /** Name what stands in the input without the list: a SKU typed in full, scanned, or sent before. */
    async function settle(input) {
        const typed = input.value.trim();
        if (typed && !known.has(typed)) {
            let found;
            try {
                found = await fetchProducts(typed, 1);
            } catch (error) {
                tellFailure(error);
                return;
            }
            if (!known.has(typed)) {
                const alike = found.results.filter((product) => product.sku.toLowerCase() === typed.toLowerCase());
                if (alike.length === 1 && input.value.trim() === typed) {
                    input.value = alike[0].sku;
                } else {
                    known.set(typed, null);
                }
            }
        }
        refresh();
    }

    // --- the list --------------------------------------------------------------------------------------

    function open(input) {
        if (owner !== input) {
            close();
            owner = input;
            input.closest(".place-box").append(popup);
        }
        input.setAttribute("aria-expanded", "true");
        popup.hidden = false;
    }

    function close() {
        clearTimeout(search.timer);
        if (search.request) {
            search.request.abort();
        }
        if (owner) {
            owner.setAttribute("aria-expanded", "false");
            owner.removeAttribute("aria-activedescendant");
        }
        popup.hidden = true;
        popup.remove();
        list.replaceChildren();
        owner = null;
        active = -1;
    }

    /** Show what matches the input: the first page, or the next one below what is shown. */
    async function show(input, {next = false} = {}) {
        open(input);
        if (search.request) {
            search.request.abort();
        }
        const request = new AbortController();
        const page = next ? search.page + 1 : 1;
        const term = next ? search.term : input.value.trim();
        search = {...search, term, page, more: false, request};
        let found;
        try {
            found = await fetchProducts(term, page, request.signal);
        } catch (error) {
            tellFailure(error);
            return;
        }
        if (owner !== input || search.request !== request) {
            return;
        }
        if (!next) {
            list.replaceChildren();
            highlight(-1);
        }
        list.append(...found.results.map(makeOption));
        search.more = found.more;
        const count = list.children.length;
        note.textContent = count === 0 ? "No product on sale matches." : found.more ? "More below, or type more of it." : "";
        status.textContent = count === 0 ? "No product on sale matches."
            : `${count}${found.more ? " or more" : ""} product${count === 1 ? "" : "s"}, use the arrow keys.`;
        refresh();
    }

    function makeOption(product, index) {
        const option = document.createElement("li");
        const [name, sku, price, available] = ["strong", "code", "span", "span"].map((tag) => document.createElement(tag));
        option.id = `place-option-${list.children.length + index}`;
        option.dataset.sku = product.sku;
        option.setAttribute("role", "option");
        option.setAttribute("aria-selected", "false");
        name.textContent = product.name;
        sku.textContent = product.sku;
        price.textContent = `${product.price} ${product.currency}`;
        price.className = "place-price";
        available.textContent = product.available > 0 ? `${product.available} available` : "sold out";
        available.className = product.available > 0 ? "place-available" : "place-available place-none";
        option.append(name, " ", sku, " ", price, " ", available);
        return option;
    }

    function highlight(index) {
        if (list.children[active]) {
            list.children[active].setAttribute("aria-selected", "false");
        }
        active = index;
        const option = list.children[index];
        if (!option) {
            if (owner) {
                owner.removeAttribute("aria-activedescendant");
            }
            return;
        }
        option.setAttribute("aria-selected", "true");
        owner.setAttribute("aria-activedescendant", option.id);
        option.scrollIntoView({block: "nearest"});
        if (search.more && index >= list.children.length - 3) {
            show(owner, {next: true});
        }
    }

    function choose(option) {
        const input = owner;
        input.value = option.dataset.sku;
        status.textContent = `${option.dataset.sku} chosen`;
        close();
        refresh();
    }

    // --- keys and pointer ------------------------------------------------------------------------------

    function typeInSku(event) {
        const input = event.target;
        const count = list.children.length;
        const isOpen = owner === input && count > 0;
        if (event.key === "ArrowDown" || event.key === "ArrowUp") {
            event.preventDefault();
            const step = event.key === "ArrowDown" ? 1 : -1;
            if (!isOpen) {
                show(input);
            } else if (active === -1) {
                highlight(step === 1 ? 0 : count - 1);
            } else {
                highlight((active + step + count) % count);
            }
        } else if ((event.key === "Home" || event.key === "End") && isOpen && active !== -1) {
            event.preventDefault();
            highlight(event.key === "Home" ? 0 : count - 1);
        } else if (event.key === "Escape" && owner === input) {
            event.preventDefault();
            close();
        } else if (event.key === "Enter") {
            // Never sends the order: a scanner ends each SKU with Enter.
            event.preventDefault();
            if (isOpen && active !== -1) {
                choose(list.children[active]);
            } else if (input.value.trim()) {
                close();
                const quantity = quantityOf(input.closest("tr"));
                quantity.focus();
                quantity.select();
            }
        }
    }

    function typeInQuantity(event) {
        if (event.key !== "Enter") {
            return;
        }
        event.preventDefault();
        const rows = listRows();
        const next = rows[rows.indexOf(event.target.closest("tr")) + 1];
        if (next) {
            skuOf(next).focus();
        } else {
            group.querySelector(".add-row a").click();
        }
    }

    group.addEventListener("input", (event) => {
        const input = event.target;
        // What the desk refused is no longer what stands there.
        input.closest("td").querySelector(".errorlist")?.remove();
        input.removeAttribute("aria-invalid");
        if (input.matches(".place-sku")) {
            clearTimeout(search.timer);
            if (input.value.trim()) {
                search.timer = setTimeout(() => show(input), 150);
            } else {
                close();
            }
        }
        refresh();
    });
    group.addEventListener("keydown", (event) => {
        if (event.target.matches(".place-sku")) {
            typeInSku(event);
        } else if (event.target.matches(".place-quantity")) {
            typeInQuantity(event);
        } else if (event.key === " " && event.target.matches("a[role=button]")) {
            event.preventDefault();
            event.target.click();
        }
    });
    group.addEventListener("click", (event) => {
        if (event.target.matches(".place-sku") && owner !== event.target) {
            show(event.target);
        }
    });
    group.addEventListener("focusout", (event) => {
        if (event.target.matches(".place-sku")) {
            clearTimeout(search.timer);
            if (owner === event.target) {
                close();
            }
            settle(event.target);
        }
    });
    // Before the input loses its focus, which would close the list.
    popup.addEventListener("mousedown", (event) => event.preventDefault());
    list.addEventListener("click", (event) => {
        const option = event.target.closest("[role=option]");
        if (option) {
            choose(option);
        }
    });
    list.addEventListener("scroll", () => {
        if (search.more && list.scrollTop + list.clientHeight > list.scrollHeight - 40) {
            show(owner, {next: true});
        }
    });

    document.addEventListener("formset:added", (event) => {
        refresh();
        skuOf(event.target).focus();
    });
    document.addEventListener("formset:removed", () => {
        // The rows are renumbered after this event.
        queueMicrotask(() => {
            close();
            refresh();
            group.querySelector(".add-row a").focus();
        });
    });

    // --- start -----------------------------------------------------------------------------------------

    for (const input of group.querySelectorAll(".place-sku")) {
        input.setAttribute("role", "combobox");
        input.setAttribute("aria-autocomplete", "list");
        input.setAttribute("aria-expanded", "false");
        input.setAttribute("aria-controls", list.id);
    }
    for (const {dataset} of group.querySelectorAll(".place-hint[data-sku]")) {
        known.set(dataset.sku, {...dataset, available: Number(dataset.available)});
    }
    for (const hint of document.querySelectorAll(".place-keys")) {
        hint.hidden = false;
    }
    // The buttons of the rows are made by inlines.js when the page is ready.
    window.addEventListener("load", () => {
        refresh();
        // A page that was gone back to: the browser has filled the rows in again.
        listRows().map(skuOf).filter((input) => input.value.trim()).forEach(settle);
        (document.querySelector(".place-errors") || document.getElementById("id_customer_email")).focus();
    });
}
